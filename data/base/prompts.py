"""Questions about a picture, an album or a story, as ids: turns that share what comes before them and do not see each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IGNORE = -100


@dataclass
class Row:
    """One picture, album or story with its questions: each is what follows the shared prefix in single-turn chat."""

    ids: list[int]
    labels: list[int]
    turn: list[int]  # 0: prefix
    position: list[int]
    options: list[int]  # 1 at the end of the right option, 0 at the end of a wrong one, IGNORE elsewhere


@dataclass
class Batch:
    ids: Tensor  # [B, L]
    labels: Tensor  # [B, L]
    position: Tensor  # [B, L]
    options: Tensor  # [B, L]
    mask: Tensor  # bool [B, 1, L, L]: causal, and no turn sees another


class Writer:
    """Prefix and questions -> ids, labels, turns and positions, with <image> expanded."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids))
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.pad = tokenizer.pad_token_id
        self.line = self.ids("\n")[0]
        self.opening = [tokenizer.bos_token_id, *self.ids("USER:")]

    def write(self, turns: list[tuple[str, str]], visual_tokens: int, limit: int, told: str = "") -> Row:
        """`limit`: ids after which no further turn is begun."""
        prefix = [*self.opening, *[self.image] * visual_tokens, *self.ids(told), *self.ids("\n")]
        row = Row(list(prefix), [IGNORE] * len(prefix), [0] * len(prefix), list(range(len(prefix))), [IGNORE] * len(prefix))
        for index, (question, answer) in enumerate(turns):
            head, tail = [*self.ids(question), 2, *self.ids("ASSISTANT:")], [*self.ids(answer), 2]
            size = len(head) + len(tail)
            if index and len(row.ids) + size > limit:
                break
            row.ids += head + tail
            row.labels += [IGNORE] * len(head) + tail
            row.turn += [index + 1] * size
            row.position += range(len(prefix), len(prefix) + size)
            row.options += self._options(question, answer, len(self.ids(question)) + 1) + [IGNORE] * (size - len(self.ids(question)) - 1)
        return row

    def _options(self, question: str, answer: str, size: int) -> list[int]:
        """Each option ends where the next line, or the end of the turn, begins."""
        marked = [IGNORE] * size
        if "\nOptions:\n" in question:
            ids = [*self.ids(question), 2]
            ends = [index for index, token in enumerate(ids) if token in (self.line, 2)][2:]
            right = "ABCDEFG".index(answer.removeprefix("Answer: (")[0])
            for letter, index in enumerate(ends):
                marked[index] = int(letter == right)
        return marked

    def batch(self, rows: list[Row]) -> Batch:
        width = max(len(row.ids) for row in rows)

        def padded(values: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([value + [fill] * (width - len(value)) for value in values])

        turn = padded([row.turn for row in rows], -1)
        seen = (turn[:, None, :] == 0) | (turn[:, None, :] == turn[:, :, None])
        mask = (seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
        ids, labels = padded([row.ids for row in rows], self.pad), padded([row.labels for row in rows], IGNORE)
        options = padded([row.options for row in rows], IGNORE)
        return Batch(ids, labels, padded([row.position for row in rows], 0), options, mask)
