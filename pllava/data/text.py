"""Checks of text: what a user's words must not hold, and whether anything is left to learn after the cut.

checker = TextChecker(base="data/base/tiny-llava", template="tiny", max_length=320)
num_tokens, reasons = checker.check(turns)
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pllava.data.conversation import IGNORE, encode
from pllava.data.instruction import Turn


class TextChecker:
    """Holds the tokenizer of the base and the training template."""

    def __init__(self, base: str, template: str, max_length: int) -> None:
        from pllava.chat.template import load_template

        self.tokenizer = load_tokenizer(base)
        self.template = load_template(template)
        self.max_length = max_length
        # A role marker starts a new turn and can turn the loss on; <image> asks for visual tokens; </s> ends an answer.
        markers = {*self.template.markers, *self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
        self.forbidden = sorted({marker.strip() for marker in markers} - {""})

    def check(self, turns: tuple[Turn, ...]) -> tuple[int, list[tuple[str, str]]]:
        """Text tokens of the sample (after the cut), and the reasons why it cannot be used."""
        reasons = [
            ("special text", f"QA[{number}] {key!r} holds {marker!r}, which has a meaning of its own in a conversation")
            for number, turn in enumerate(turns)
            for key, text in asdict(turn).items()
            for marker in self.forbidden
            if marker in text
        ]
        if reasons:
            return 0, reasons
        encoded = encode([asdict(turn) for turn in turns], self.tokenizer, self.template, self.max_length)
        if all(label == IGNORE for label in encoded.labels):
            return 0, [("nothing supervised", f"no answer token is left after the cut to train.max_length = {self.max_length} text tokens")]
        return len(encoded.input_ids), []


def load_tokenizer(base: str) -> Any:
    """Tokenizer of a base. AutoTokenizer would rebuild the normaliser and lose spaces (transformers 5)."""
    from transformers import PreTrainedTokenizerFast

    from pllava.errors import PllavaError

    try:
        return PreTrainedTokenizerFast.from_pretrained(base)
    except Exception as error:  # OSError, ValueError, and what the tokenizer's Rust raises
        raise PllavaError(
            f"model.base = {base!r} has no tokenizer that loads: {error}. Give a folder or a hub id that has tokenizer.json"
        ) from None
