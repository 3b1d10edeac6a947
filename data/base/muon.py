"""Muon for the hidden matrices, in float32 and batched by shape (torch's own works in bfloat16, which many CPUs emulate)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by five Newton-Schulz steps, scaled to AdamW's size (0.2 x sqrt of the longer side)."""

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(momentum, group["momentum"]))
                whole = orthogonalise(torch.stack(updates))
                for parameter, update in zip(parameters, whole, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def orthogonalise(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """[B, R, C] -> the nearest (semi-)orthogonal matrices, roughly."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


Rate = Callable[[list[torch.optim.Optimizer], int], None]


def optimizers(model: torch.nn.Module, lr: float, steps: int, warm: int) -> tuple[list[torch.optim.Optimizer], Rate]:
    """Muon for the hidden matrices (about twice the progress a step of AdamW alone here, LOG.md), AdamW for the rest; and a function that
    makes a step of both at the rate of that step: a warm-up, the peak held, down to zero over the last 35 %."""
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "heads."))]
    chosen = {id(p) for p in hidden}
    others = [p for _, p in named if id(p) not in chosen]
    both = [Muon(hidden, lr=lr), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)]

    def step(optimizers: list[torch.optim.Optimizer], number: int) -> None:
        left = 1 - number / steps
        factor = max(0.02, min(1.0, (number + 1) / warm) * min(1.0, left / 0.35))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()

    return both, step
