"""Checks of text: it must hold no special tokens or role markers, and an answer token must remain after the cut to max_length.

checker = TextChecker(base="data/base/tiny-llava", template="tiny", max_length=320)
num_tokens, reasons, cut = checker.report(turns)
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from pllava.chat.conversation import IGNORE, encode
from pllava.stages.prepare.instruction import Turn

NO_LIMIT = 1 << 40  # text tokens; encoding with this maximum cuts nothing


ENDS = "; it stands for the clip once, at the beginning or the end of the first question"
TAGS = {"<image>": ENDS, "<video>": ENDS}


class TextReport(NamedTuple):
    num_tokens: int  # after the cut to max_length, without visual tokens
    reasons: list[tuple[str, str]]  # why the sample cannot be used
    cut: bool  # whether the sample is longer than max_length: it is usable, but its end is not learnt


class TextChecker:
    """Holds the tokenizer of the base and the training template."""

    def __init__(self, base: str, template: str, max_length: int) -> None:
        from pllava.chat.template import load_template

        self.tokenizer = load_tokenizer(base)
        self.template = load_template(template, base)
        self.max_length = max_length
        # In a text, a role marker would start a new turn and could turn the loss on; <image> would ask for visual tokens; </s> would end an
        # answer.
        markers = {*self.template.markers, *self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab(), "<video>"}
        self.forbidden = sorted({marker.strip() for marker in markers} - {""})
        self._any_forbidden = re.compile("|".join(re.escape(marker) for marker in self.forbidden))
        self._pieces = _Pieces(self.tokenizer)

    @property
    def sha256(self) -> str:
        """A hash of everything that the checks depend on."""
        text = f"{self.tokenizer.backend_tokenizer.to_str()} {self.forbidden} {self.template.sha256} {self.max_length}"
        return hashlib.sha256(text.encode()).hexdigest()

    def report(self, turns: tuple[Turn, ...], media: bool = True) -> TextReport:
        """Check the text of one sample. media: False for text alone."""
        reasons = [
            (
                "special text",
                f"QA[{number}] {key!r} holds {marker!r}, which has a meaning of its own in a conversation{TAGS.get(marker, '')}",
            )
            for number, turn in enumerate(turns)
            for key, text in (("i", turn.i), ("q", turn.q), ("a", turn.a))
            if self._any_forbidden.search(text)
            for marker in self.forbidden
            if marker in text
        ]
        if reasons:
            return TextReport(0, reasons, False)
        qa = [{"i": turn.i, "q": turn.q, "a": turn.a} for turn in turns]
        encoded = encode(qa, self._pieces, self.template, NO_LIMIT, media=media, markers="keep")  # checked above
        cut = len(encoded.input_ids) > self.max_length
        if all(label == IGNORE for label in encoded.labels[: self.max_length]):
            reason = f"no answer token is left after the cut to train.max_length = {self.max_length} text tokens"
            return TextReport(0, [("nothing supervised", reason)], cut)
        return TextReport(min(len(encoded.input_ids), self.max_length), [], cut)


class _Pieces:
    """A fast tokenizer for one piece of text at a time, without batching. The ids of short pieces (roles, yes, no) are cached."""

    LIMIT, SHORT = 1 << 16, 32  # pieces, characters

    def __init__(self, tokenizer: Any) -> None:
        self.pad_token_id, self._encode = tokenizer.pad_token_id, tokenizer.backend_tokenizer.encode
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        self._known: dict[tuple[str, bool], list[int]] = {}

    def __call__(self, piece: str, add_special_tokens: bool) -> dict[str, list[int]]:
        if len(piece) > self.SHORT:
            return {"input_ids": self._encode(piece, add_special_tokens=add_special_tokens).ids}
        key = piece, add_special_tokens
        ids = self._known.get(key)
        if ids is None:
            ids = self._encode(piece, add_special_tokens=add_special_tokens).ids
            if len(self._known) < self.LIMIT:
                self._known[key] = ids
        return {"input_ids": ids}


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base folder or hub id. Raises PllavaError when none loads.

    AutoTokenizer of transformers 5 would rebuild the normaliser and lose spaces.
    """
    from transformers import PreTrainedTokenizerFast

    from pllava.core.errors import PllavaError

    try:
        return PreTrainedTokenizerFast.from_pretrained(base)
    except Exception as error:  # OSError, ValueError, and the errors of the tokenizer's Rust code
        raise PllavaError(
            f"model.base = {base!r} has no tokenizer that loads: {error}. Give a folder or a hub id that has tokenizer.json"
        ) from None
