"""The learning rate of each step: `lr_at(step, total_steps, warmup_steps, base_lr, min_lr_ratio)`.

Linear warm-up to the peak, then a half cosine. The rate never falls below the floor `min_lr_ratio` (paper: 0.25 of the peak).
"""

from __future__ import annotations

import math
from collections.abc import Callable


def lr_at(step: int, total_steps: int, warmup_steps: int, base_lr: float, min_lr_ratio: float) -> float:
    """The learning rate of optimiser step `step`, counted from 0. Past the end it stays at the floor."""
    return base_lr * _factor(step, total_steps, warmup_steps, min_lr_ratio)


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Number of warm-up steps: the share of all steps, rounded up."""
    return math.ceil(total_steps * warmup_ratio)


def cosine(total_steps: int, warmup_ratio: float, min_lr_ratio: float) -> Callable[[int], float]:
    """A function: step (from 0) -> learning rate as a share of the peak."""
    warmup = warmup_steps(total_steps, warmup_ratio)
    return lambda step: _factor(step, total_steps, warmup, min_lr_ratio)


def _factor(step: int, total_steps: int, warmup: int, floor: float) -> float:
    if step < warmup:
        return max(floor, step / warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return max(floor, 0.5 * (1 + math.cos(math.pi * progress)))
