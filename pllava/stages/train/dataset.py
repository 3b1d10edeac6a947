"""From a manifest row to a training sample: text encoded with the template, and the clip as tower features or as pixels.

A sample is a pure function of (row, epoch, seed): it depends neither on the worker that makes it nor on earlier random draws.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from pllava.artifacts.manifest import ManifestRow
from pllava.artifacts.pixels import UnreadableClip
from pllava.chat.conversation import IGNORE, encode
from pllava.chat.template import PLACEHOLDER
from pllava.core.errors import PllavaError
from pllava.stages.train.tree_mask import encode_branches

if TYPE_CHECKING:
    from pllava.chat.template import Template


ATTEMPTS = 20  # rows tried in turn when clips cannot be read


@dataclass(frozen=True)
class TrainSample:
    """One conversation about one clip; `input_ids` and `labels` hold ONE placeholder, which the collator expands."""

    id: str
    input_ids: list[int]
    labels: list[int]
    vision: Tensor | None  # [T, P, Dv] tower features, or [T, 3, H, W] pixels; None: text alone
    turn: list[int] | None = None  # independent turns: the branch number of each token (pllava.stages.train.tree_mask)
    replaced: tuple[tuple[str, str], ...] = ()  # rows that this sample replaces because their clips could not be read: (id, reason)


class VisionSource(Protocol):
    """Where the dataset gets a clip from: the feature store or `Pixels`. `get` raises UnreadableClip."""

    is_features: bool

    def get(self, row: ManifestRow, epoch: int) -> Tensor: ...


class InstructionDataset(Dataset):
    """Indexed by (row number, epoch).

    shuffle_turns: the questions of a clip come in another order every epoch. independent: the questions do not see each other.
    """

    def __init__(
        self,
        rows: list[ManifestRow],
        vision: VisionSource,
        tokenizer: Any,
        template: Template,
        max_length: int,
        seed: int,
        shuffle_turns: bool,
        independent: bool = False,
    ) -> None:
        self.independent, self.image_token_id = independent, tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        self.rows, self.vision, self.tokenizer, self.template = rows, vision, PieceCache(tokenizer), template
        self.max_length, self.seed, self.shuffle_turns = max_length, seed, shuffle_turns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> TrainSample:
        """The row's sample. A row whose clip cannot be read is replaced by another row, which the seed draws, so equally in every run.

        Raises PllavaError when ATTEMPTS clips in turn cannot be read.
        """
        number, epoch = key
        failed: list[tuple[str, str]] = []
        for attempt in range(ATTEMPTS):
            row = self.rows[number]
            try:
                sample = self._sample(row, epoch)
            except UnreadableClip as error:
                failed.append((row.id, str(error)))
                number = random.Random(f"replace:{self.seed}:{epoch}:{self.rows[key[0]].id}:{attempt}").randrange(len(self.rows))
            else:
                return replace(sample, replaced=tuple(failed)) if failed else sample
        raise PllavaError(
            f"{ATTEMPTS} clips drawn one after the other cannot be read; the last: {failed[-1][1]}\n"
            "Is the media root of the corpus there? Check it all: pllava prepare"
        )

    def _sample(self, row: ManifestRow, epoch: int) -> TrainSample:
        if self.independent:
            qa = turn_order(row.qa, f"turns:{self.seed}:{epoch}:{row.id}") if self.shuffle_turns else row.qa
            branches = encode_branches(qa, self.tokenizer, self.template, self.max_length, self.image_token_id, bool(row.media))
            return TrainSample(row.id, branches.input_ids, branches.labels, self._clip(row, epoch), branches.turn)
        input_ids, labels = self._text(row, epoch)
        return TrainSample(row.id, input_ids, labels, self._clip(row, epoch))

    def _clip(self, row: ManifestRow, epoch: int) -> Tensor | None:
        return self.vision.get(row, epoch) if row.media else None

    def _text(self, row: ManifestRow, epoch: int) -> tuple[list[int], list[int]]:
        qa = turn_order(row.qa, f"turns:{self.seed}:{epoch}:{row.id}") if self.shuffle_turns else row.qa
        input_ids, labels = self._encode(qa, bool(row.media))
        if all(label == IGNORE for label in labels):  # the shuffle put a long question first; prepare has checked the order of the file
            input_ids, labels = self._encode(row.qa, bool(row.media))
        return input_ids, labels

    def _encode(self, qa: list[dict[str, str]], media: bool) -> tuple[list[int], list[int]]:
        # "keep": prepare has already refused text that holds markers
        encoded = encode(qa, self.tokenizer, self.template, self.max_length, markers="keep", media=media)
        return encoded.input_ids, encoded.labels


class PieceCache:
    """A tokenizer with a cache: conversations are tokenised in pieces, and roles and short answers repeat."""

    LIMIT = 1 << 16  # pieces

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.pad_token_id = tokenizer, tokenizer.pad_token_id
        self._known: dict[tuple[str, bool], list[int]] = {}

    def __call__(self, piece: str, add_special_tokens: bool) -> dict[str, list[int]]:
        key = piece, add_special_tokens
        ids = self._known.get(key)
        if ids is None:
            ids = self.tokenizer(piece, add_special_tokens=add_special_tokens)["input_ids"]
            if len(self._known) < self.LIMIT:
                self._known[key] = ids
        return {"input_ids": ids}


def turn_order(qa: list[dict[str, str]], seed: str) -> list[dict[str, str]]:
    """The turns in an order drawn from `seed`. The instruction stays with the first turn.

    A conversation with a caption turn (empty q) keeps its order: such a turn has no user message unless it opens the text.
    """
    if len(qa) < 2 or not all(turn["q"] for turn in qa):
        return qa
    turns = [{**turn, "i": ""} for turn in qa]
    random.Random(seed).shuffle(turns)
    turns[0]["i"] = qa[0]["i"]
    return turns
