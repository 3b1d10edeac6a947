"""Which samples make a step: `epoch_batches(lengths, batch_size, seed, epoch)`. A pure function, so a run can be repeated or resumed."""

from __future__ import annotations

import random

WINDOW = 16  # batches whose samples are sorted by length together: wide enough for little padding, narrow enough to mix


def epoch_batches(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled batches of row numbers, each of samples of like length; what does not fill a batch waits for another epoch's shuffle."""
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
    """A batch as `parts` micro-batches of one size; neighbours in length stay together."""
    size = len(batch) // parts
    return [batch[i * size : (i + 1) * size] for i in range(parts)]
