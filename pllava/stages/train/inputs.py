"""The data of a training: its micro-batches in order, its validation batches, and the clips that could not be read.

Worker processes decode and preprocess ahead of the step (`data.workers`, `data.prefetch`). A sample is a pure function of its row, the
epoch and the seed, so any number of workers gives the same batches.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pllava.artifacts.feature_store import clip_key, open_store
from pllava.artifacts.manifest import PREPARED, ManifestRow, read_manifest
from pllava.artifacts.pixels import Pixels, UnreadableClip
from pllava.chat.conversation import IGNORE
from pllava.chat.template import load_template
from pllava.core.errors import PllavaError
from pllava.core.signals import block_signals, obey_only_parent
from pllava.stages.train.collator import Batch, Collator
from pllava.stages.train.dataset import InstructionDataset, VisionSource
from pllava.stages.train.steps import StepSampler, validation_batches

if TYPE_CHECKING:
    from pllava.core.params import Params

SHOWN = 5  # bad clips named in the error
CLIPS_AT_ONCE = 8  # in memory, when the training clips are measured


class Inputs:
    """Batches of both splits for one process.

    `bad_clips`: split -> {row id: why its clip could not be read}. The bad clips of other processes are added when the loss is recorded.
    """

    def __init__(self, params: Params, processor: Any, process: int = 0, processes: int = 1) -> None:
        self.params, self.process, self.processes = params, process, processes
        manifests = {split: read_manifest(PREPARED / f"{split}.parquet") for split in ("train", "validation")}
        vision: VisionSource | None = open_store(params)
        if vision is None:
            vision = Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
        self.vision = vision
        template, independent = load_template(params.model.template, params.model.base), params.train.turns == "independent"
        visual = processor.num_visual_tokens
        self.lengths = {split: [row.num_tokens + (visual if row.media else 0) for row in rows] for split, rows in manifests.items()}
        self.data = {
            split: InstructionDataset(
                rows, vision, processor.tokenizer, template, params.train.max_length, params.seed, split == "train", independent
            )
            for split, rows in manifests.items()
        }
        key = "vision_features" if vision.is_features else "pixel_values_videos"
        pad_token_id = processor.tokenizer.pad_token_id or 0
        self.collator = Collator(processor.image_token_id, processor.num_visual_tokens, pad_token_id, key, params.train.packing)
        self.workers = 0 if vision.is_features else params.data.workers
        self.bad_clips: dict[str, dict[str, str]] = {"train": {}, "validation": {}}

    def rows(self, split: str) -> int:
        return len(self.lengths[split])

    def steps(self, total: int, done: int = 0) -> Iterator[Batch]:
        """Micro-batches of steps `done` + 1 to `total`; each step has `train.gradient_accumulation` of them."""
        train = self.params.train
        sampler = StepSampler(
            self.lengths["train"],
            total,
            train.batch_size,
            train.gradient_accumulation,
            self.params.seed,
            self.process,
            self.processes,
            done,
        )
        return self.batches("train", sampler)

    def validation(self, even: bool = False) -> Iterator[Batch]:
        """This process's share of the validation batches; the processes together read every row once.

        even: every process gets the same number of batches. A process that has one too few gets a padding batch without labels, which adds
        no token to the loss.
        """
        batches = validation_batches(self.lengths["validation"], self.params.train.batch_size // self.params.train.gradient_accumulation)
        yield from self.batches("validation", batches[self.process :: self.processes])
        if even and self.process >= len(batches) % self.processes > 0:
            for batch in self.batches("validation", batches[:1]):
                batch["labels"] = torch.full_like(batch["labels"], IGNORE)
                yield batch

    def batches(self, split: str, sampler: Any) -> Iterator[Batch]:
        """Batches of the rows that a batch sampler names."""
        with block_signals():  # `iter` starts the workers
            return iter(self.loader(split, sampler))

    def loader(self, split: str, sampler: Any) -> DataLoader:
        return DataLoader(
            self.data[split],
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=self.workers,
            prefetch_factor=self.params.data.prefetch if self.workers else None,
            worker_init_fn=obey_only_parent,
            # Not torch's global generator: dropout draws from that one, and a resume restores it.
            generator=torch.Generator().manual_seed(self.params.seed),
        )

    def training_clips(self, most: int) -> Iterator[list[Tensor]]:
        """Lists of up to `most` different training clips, evenly spaced, as `VisionSource` gives them. Unreadable clips are left out."""
        rows = list({clip_key(row): row for row in self.data["train"].rows if row.media}.values())
        rows = rows[:: max(1, math.ceil(len(rows) / most))]
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            for first in range(0, len(rows), CLIPS_AT_ONCE):
                clips = pool.map(self._clip, rows[first : first + CLIPS_AT_ONCE])
                yield [clip for clip in clips if clip is not None]

    def _clip(self, row: ManifestRow) -> Tensor | None:
        try:
            return self.vision.get(row, 0)
        except UnreadableClip:
            return None

    def record_bad_clips(self, split: str, batches: Iterable[Batch]) -> int:
        """Add the clips replaced in these batches to `bad_clips`. Returns the number of bad clips so far, of both splits.

        Raises PllavaError when they are more than `train.max_bad_fraction` of the split.
        """
        known = self.bad_clips[split]
        for batch in batches:
            for row, reason in batch.replaced:
                if row not in known:
                    known[row] = reason
                    print(f"{split} row {row} is replaced, its clip cannot be read: {reason}", file=sys.stderr)
        allowed = self.params.train.max_bad_fraction
        if known and len(known) > allowed * self.rows(split):
            lines = "\n".join(f"  {row}: {reason}" for row, reason in list(known.items())[:SHOWN])
            raise PllavaError(
                f"{len(known)} of {self.rows(split)} {split} clip(s) cannot be read, train.max_bad_fraction allows {allowed:.1%}\n{lines}\n"
                "Check them all: pllava prepare; or raise train.max_bad_fraction in params.yaml"
            )
        return sum(map(len, self.bad_clips.values()))
