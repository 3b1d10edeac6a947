"""The samples of each step: `epoch_batches(lengths, batch_size, seed, epoch)`. A pure function, so a run can be repeated or resumed."""

from __future__ import annotations

import random

WINDOW = 16  # batches sorted by length together: a wide window has little padding, a narrow one mixes the samples more


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
