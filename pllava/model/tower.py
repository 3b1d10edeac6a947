"""The frozen tower over clips, `encode_clips(model, clips, dtype)`: the one place where training and the feature store run it.

Every clip is encoded in pieces whose size depends on the model alone, each by one CPU thread, several at once. So the numbers are the
same to the bit whatever the batch, the number of threads or processes, and whether a store stands between tower and training.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

TOKENS_AT_ONCE = 2048  # rows of a piece's matrices: enough for the kernels, few enough for the cache


def encode_clips(model: Any, clips: Sequence[Tensor], dtype: str) -> list[Tensor]:
    """Pixels [T, 3, H, W] of each clip -> [T, P, Dv] of each in `dtype`, on the model's device. No gradients, no autocast."""
    device = next(model.parameters()).device
    if device.type != "cpu":  # a GPU takes whole clips, one at a time: other sizes round otherwise
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
    """Frames of a piece."""
    vision = model.config.vision_config
    return max(1, TOKENS_AT_ONCE // ((vision.image_size // vision.patch_size) ** 2 + 1))


def _encode(model: Any, pixels: Tensor, dtype: str) -> Tensor:
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):  # both are a thread's own
        return model.vision_features(pixels).to(getattr(torch, dtype))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers of one CPU thread each."""
    pool = ThreadPoolExecutor(threads, "tower", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # the workers' setting is also what threads to come would take
    return pool
