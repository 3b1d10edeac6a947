"""What a training reads: micro-batches in their order, validation batches, and the count of clips that could not be read.

Worker processes decode and preprocess ahead of the step (`data.workers`, `data.prefetch`). A sample is a pure function of its row, the
epoch and the seed, so any number of workers gives the same batches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from pllava.artifacts.feature_store import open_store
from pllava.artifacts.manifest import PREPARED, read_manifest
from pllava.artifacts.pixels import Pixels
from pllava.chat.conversation import IGNORE
from pllava.chat.template import load_template
from pllava.core.errors import PllavaError
from pllava.core.signals import block_signals, obey_only_parent
from pllava.stages.train.collator import Batch, Collator
from pllava.stages.train.dataset import InstructionDataset, VisionSource
from pllava.stages.train.steps import StepSampler, validation_batches

if TYPE_CHECKING:
    from pllava.core.params import Params

SHOWN = 5  # bad clips that are named when they are too many


class Inputs:
    """`bad_clips`: split -> {row id: why its clip could not be read}; of the other processes those up to the last record of the loss."""

    def __init__(self, params: Params, processor: Any, process: int = 0, processes: int = 1) -> None:
        self.params, self.process, self.processes = params, process, processes
        tables = {split: read_manifest(PREPARED / f"{split}.parquet") for split in ("train", "validation")}
        vision: VisionSource | None = open_store(params)
        if vision is None:
            vision = Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
        template, independent = load_template(params.model.template), params.train.turns == "independent"
        visual = processor.num_visual_tokens
        self.lengths = {split: [row.num_tokens + (visual if row.media else 0) for row in table] for split, table in tables.items()}
        self.data = {
            split: InstructionDataset(
                table, vision, processor.tokenizer, template, params.train.max_length, params.seed, split == "train", independent
            )
            for split, table in tables.items()
        }
        key = "vision_features" if vision.is_features else "pixel_values_videos"
        pad_token_id = processor.tokenizer.pad_token_id or 0
        self.collator = Collator(processor.image_token_id, processor.num_visual_tokens, pad_token_id, key, params.train.packing)
        self.workers = 0 if vision.is_features else params.data.workers
        self.bad_clips: dict[str, dict[str, str]] = {"train": {}, "validation": {}}

    def rows(self, split: str) -> int:
        return len(self.lengths[split])

    def steps(self, total: int, done: int = 0) -> Iterator[Batch]:
        """Micro-batches of the steps after `done`, `train.gradient_accumulation` to a step."""
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
        """Every validation row once, shared by the processes. even: as many batches in each; one more than its own counts no token."""
        batches = validation_batches(self.lengths["validation"], self.params.train.batch_size // self.params.train.gradient_accumulation)
        yield from self.batches("validation", batches[self.process :: self.processes])
        if even and self.process >= len(batches) % self.processes > 0:
            for batch in self.batches("validation", batches[:1]):
                batch["labels"] = torch.full_like(batch["labels"], IGNORE)
                yield batch

    def batches(self, split: str, sampler: Any) -> Iterator[Batch]:
        with block_signals():  # workers are started
            return iter(self.loader(split, sampler))

    def loader(self, split: str, sampler: Any) -> DataLoader:
        return DataLoader(
            self.data[split],
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=self.workers,
            prefetch_factor=self.params.data.prefetch if self.workers else None,
            worker_init_fn=obey_only_parent,
            generator=torch.Generator().manual_seed(self.params.seed),  # of its own: torch's belongs to dropout, and a resume restores it
        )

    def replace_bad(self, split: str, batches: Iterable[Batch]) -> int:
        """Count the clips that were replaced in these batches; how many so far. Raises PllavaError when they are too many."""
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
