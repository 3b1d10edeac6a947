"""Reading tests/reference/model_*.{json,safetensors}: inputs rebuilt from their seeds, recorded outputs."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@cache
def cases(file: Path) -> dict[str, dict[str, Any]]:
    """Case name -> metadata; empty when this reference folder doesn't have the file."""
    return json.loads(file.read_text()) if file.exists() else {}


@cache
def tensors(file: Path, case: str) -> dict[str, Tensor]:
    with safe_open(file.with_suffix(".safetensors"), "pt") as handle:
        return {key.removeprefix(f"{case}/"): handle.get_tensor(key) for key in handle.keys() if key.startswith(f"{case}/")}  # noqa: SIM118


@cache
def synth_pixels(seed: int, n: int, size: int, sha256: str) -> Tensor:
    """Frames [n, 3, size, size], normalised: coarse blocks plus noise."""
    r = np.random.RandomState(seed)
    low = r.randint(0, 256, size=(n, 3, size // 14, size // 14)).repeat(14, axis=2).repeat(14, axis=3)
    u8 = np.clip(low + r.randint(-40, 41, size=(n, 3, size, size)), 0, 255).astype(np.uint8)
    assert hashlib.sha256(u8.tobytes()).hexdigest() == sha256
    return torch.from_numpy(((u8 / 255 - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32))


def pixels_of(meta: dict[str, Any], num_frames: int) -> Tensor | None:
    """pixel_values_videos [V, T, 3, H, W] of a case, or None."""
    info = meta["pixels"]
    if info is None:
        return None
    frames = synth_pixels(info["seed"], info["n_frames"], info["size"], info["uint8_sha256"])
    if info.get("use", "").startswith("frame 0"):
        return frames[None, :1]
    return frames.unflatten(0, (-1, num_frames))


def features_of(meta: dict[str, Any]) -> Tensor:
    """Tower features [frames, P, Dv] of a projector case."""
    features = (np.random.RandomState(meta["seed"]).randint(-2000, 2001, size=meta["in_shape"]).astype(np.float32) / 1000).astype(
        np.float32
    )
    if "features_sha256" in meta:
        assert hashlib.sha256(features.tobytes()).hexdigest() == meta["features_sha256"]
    return torch.from_numpy(features)


def expand(ids: Tensor, mask: Tensor, image_token: int, n: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """One placeholder a video -> n of them; padding stays on its side. ids, mask, labels [B, S] -> [B, S + videos * (n - 1)].

    Rows with fewer videos than others would come out shorter; the recorded batches have none.
    """
    repeats = torch.where(ids == image_token, n, 1)
    rows = [torch.repeat_interleave(torch.arange(ids.shape[1]), repeats[i]) for i in range(len(ids))]
    index = torch.stack(rows)
    out_labels = None
    if labels is not None:
        out_labels = labels.gather(1, index).masked_fill(ids.gather(1, index) == image_token, -100)
    return ids.gather(1, index), mask.gather(1, index), out_labels
