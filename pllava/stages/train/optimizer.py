"""AdamW with the published groups, and the published learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def param_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Groups {"params", "names", "weight_decay"} of the trainable parameters; empty groups are left out.

    No weight decay on biases and one-dimensional parameters (norms). Groups with decay come first: optimiser states are stored by position.
    """
    groups: dict[float, dict[str, Any]] = {decay: {"params": [], "names": [], "weight_decay": decay} for decay in (weight_decay, 0.0)}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            group = groups[0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model; betas 0.9 and 0.999, eps 1e-8, as published."""
    groups = param_groups(model.named_parameters(), weight_decay)
    for group in groups:
        group.pop("names")
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Number of warm-up steps: the share of all steps, rounded up."""
    return math.ceil(total_steps * warmup_ratio)


def cosine(total_steps: int, warmup_ratio: float, min_lr_ratio: float) -> Callable[[int], float]:
    """A function: step (from 0) -> learning rate as a share of the peak.

    Linear warm-up to the peak, then a half cosine. The rate never falls below the floor `min_lr_ratio` (paper: 0.25 of the peak).
    """
    warmup = warmup_steps(total_steps, warmup_ratio)

    def share(step: int) -> float:
        if step < warmup:
            return max(min_lr_ratio, step / warmup)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return max(min_lr_ratio, 0.5 * (1 + math.cos(math.pi * progress)))

    return share
