"""A checkpoint on the CPU in fp32, and what it says about one clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pllava

Tensors = dict[str, Tensor]


def cpu(*args: Any, **kwargs: Any) -> Any:
    return pllava.load(*args, dtype="float32", device="cpu", **kwargs)[0]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.tensor([[1, *[600] * 16, 5, 9, 200]])
    video = torch.randn(1, 4, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    return model(input_ids=ids, pixel_values_videos=video).logits
