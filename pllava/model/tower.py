"""`encode_clips(model, clips, dtype)` runs the frozen vision tower over clips. Training and the feature store both call it.

On a CPU every clip is split into pieces. The size of a piece depends on the model alone, and one thread encodes one piece. So the features
are equal to the bit for every batch size and every number of threads or processes, and with or without a feature store.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

TOKENS_AT_ONCE = 2048  # patches and class tokens of a piece: enough to keep the kernels busy, few enough for the CPU's cache


def encode_clips(model: Any, clips: Sequence[Tensor], dtype: str) -> list[Tensor]:
    """Pixels [T, 3, H, W] of each clip -> features [T, P, Dv] of each clip in `dtype`, on the model's device. No gradients, no autocast."""
    device = next(model.parameters()).device
    if device.type != "cpu":  # one whole clip at a time: batches of another size round differently
        return [_encode(model, clip.to(device), dtype) for clip in clips]
    frames = frames_at_once(model)
    pieces = [piece for clip in clips for piece in clip.split(frames)]
    threads = torch.get_num_threads()
    encoded = iter(
        _pool(threads).map(lambda piece: _encode(model, piece, dtype), pieces)
        if threads > 1
        else (_encode(model, piece, dtype) for piece in pieces)
    )
    return [torch.cat([next(encoded) for _ in clip.split(frames)]) for clip in clips]


def frames_at_once(model: Any) -> int:
    """Number of frames of one piece, at least 1."""
    vision = model.config.vision_config
    return max(1, TOKENS_AT_ONCE // ((vision.image_size // vision.patch_size) ** 2 + 1))


def _encode(model: Any, pixels: Tensor, dtype: str) -> Tensor:
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):  # each thread has its own gradient and autocast mode
        return model.vision_features(pixels).to(getattr(torch, dtype))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool of `threads` workers. In each worker torch uses one CPU thread."""
    pool = ThreadPoolExecutor(threads, "tower", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # a worker's set_num_threads(1) also sets the default of later threads; this restores it
    return pool
