"""The data of each optimiser step, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

from pllava.core.errors import PllavaError

WINDOW = 16  # batches sorted by length together: a wide window has little padding, a narrow one mixes the samples more


@dataclass(frozen=True)
class StepSampler:
    """Micro-batches of one process, as lists of (row number, epoch); `accumulation` of them in a row make a step.

    The samples of a step do not depend on the number of processes and micro-batches. Raises PllavaError when the batch size does not fit.
    """

    lengths: list[int]  # tokens of each row, visual ones included: rows of similar length share a micro-batch
    steps: int
    batch_size: int
    accumulation: int
    seed: int
    process: int = 0
    processes: int = 1
    start: int = 0  # steps that are already done

    def __post_init__(self) -> None:
        parts = self.accumulation * self.processes
        if len(self.lengths) < self.batch_size:
            raise PllavaError(
                f"{len(self.lengths)} training row(s) do not fill a batch of {self.batch_size}. "
                "Lower train.batch_size in params.yaml, or add data"
            )
        if self.batch_size % parts:
            raise PllavaError(
                f"train.batch_size {self.batch_size} is not a multiple of {parts}, "
                f"gradient_accumulation {self.accumulation} x {self.processes} process(es). Change one of them in params.yaml"
            )

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch, batch in islice(self._batches(), self.start, self.steps):
            micro_batches = split_batch(batch, self.accumulation * self.processes)
            for rows in micro_batches[self.process :: self.processes]:
                yield [(row, epoch) for row in rows]

    def _batches(self) -> Iterator[tuple[int, list[int]]]:
        for epoch in count():
            for batch in epoch_batches(self.lengths, self.batch_size, self.seed, epoch):
                yield epoch, batch


def validation_batches(lengths: list[int], batch_size: int) -> list[list[tuple[int, int]]]:
    """Batches of (row number, epoch 0) that hold every row once, in order of length."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [[(row, 0) for row in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]


def epoch_batches(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled batches of row numbers; the samples of a batch are of similar length. Rows that fill no batch are left out this epoch."""
    rng = random.Random(f"batches:{seed}:{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order) - batch_size + 1, WINDOW * batch_size):
        window = order[start : start + WINDOW * batch_size]
        window = sorted(window[: len(window) // batch_size * batch_size], key=lambda row: (lengths[row], row))
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    rng.shuffle(batches)
    return batches


def split_batch(batch: list[int], parts: int) -> list[list[int]]:
    """A batch split into `parts` micro-batches of equal size, in order."""
    size = len(batch) // parts
    return [batch[i * size : (i + 1) * size] for i in range(parts)]
