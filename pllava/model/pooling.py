"""The idea of PLLaVA: pool the [T, H, W] grid of frame features to fewer visual tokens (paper, section 3.3).

A pooling is a function `(features [V, T, P, D], frame_shape (H, W), pooling_shape (t, h, w)) -> [V, t * h * w, D]` with P = H * W. `avg`,
the method of every released model, is in this module; others are entry points of the group `pllava.poolings` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from pllava.core.errors import PllavaError
from pllava.core.plugins import load

GROUP = "pllava.poolings"
AVERAGE = "avg"
Pooling = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]


def repeat_frames(features: Tensor, num_frames: int, rule: str = "published") -> Tensor:
    """Stretch [V, T, ...] with T <= num_frames to [V, num_frames, ...] by repeating frames.

    "published": each frame int(num_frames / T) + 1 times, cut at num_frames, so the last frames can be missing;
    "even": frame i of the result is frame floor(i * T / num_frames). Both rules turn a still image into num_frames equal frames.
    """
    frames = features.shape[1]
    if frames == num_frames:
        return features
    if frames > num_frames:
        raise PllavaError(
            f"a video has {frames} frames, the model takes {num_frames}. Sample {num_frames} of them, "
            f"or load the model with num_frames={frames}"
        )
    index = torch.arange(num_frames, device=features.device)
    index = index * frames // num_frames if rule == "even" else index // (num_frames // frames + 1)
    return features[:, index]


def pool(features: Tensor, frame_shape: Sequence[int], pooling_shape: Sequence[int]) -> Tensor:
    """Average [V, T, P, D] over adaptive bins to [V, t * h * w, D]; P = H * W of `frame_shape`, (t, h, w) = `pooling_shape`.

    Bins may be uneven (24 -> 16); each bin's weights sum to 1, so pooling commutes with any affine map of D.
    """
    height, width = frame_shape
    if features.shape[2] != height * width:
        raise PllavaError(f"a frame has {features.shape[2]} patches, frame_shape {tuple(frame_shape)} of the config needs {height * width}")
    grid = features.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)  # [V, D, T, H, W]
    return adaptive_avg_pool3d(grid, tuple(pooling_shape)).flatten(2).transpose(1, 2)


def pooling(method: str) -> Pooling:
    """The pooling function of a name. Raises PllavaError when no installed package provides it."""
    return pool if method == AVERAGE else load(GROUP, method)
