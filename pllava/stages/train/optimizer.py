"""AdamW with the published groups: no weight decay on biases and one-dimensional parameters (norms)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    lr: float,
    different_lr: Mapping[str, float] | None = None,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Groups {"params", "names", "weight_decay", "lr"} of the trainable parameters; empty groups are left out.

    different_lr: regular expression -> rate of the parameters whose name it matches; the first match counts.
    decay_all: weight decay on biases and 1-D parameters too.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    rates = dict(different_lr or {})
    # The order is fixed (groups with decay first, then by rate), because optimiser states are stored by position.
    for decay in (weight_decay, 0.0):
        for rate in (lr, *rates.values()):
            groups.setdefault((decay, rate), {"params": [], "names": [], "weight_decay": decay, "lr": rate})
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        exempt = not decay_all and (parameter.ndim <= 1 or name.endswith(".bias"))
        rate = next((rate for pattern, rate in rates.items() if re.search(pattern, name)), lr)
        group = groups[0.0 if exempt else weight_decay, rate]
        group["params"].append(parameter)
        group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def adamw(model: nn.Module, lr: float, weight_decay: float, different_lr: Mapping[str, float] | None = None) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of a model; betas 0.9 and 0.999, eps 1e-8, as published."""
    groups = param_groups(model.named_parameters(), weight_decay, lr, different_lr)
    for group in groups:
        group.pop("names")
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
