"""Which frames of a clip the model sees.

    eval_indices(16, 250, 25.0)                   # benchmarks, with or without a time bound
    demo_indices(16, 250)                         # the published demo
    train_indices(16, 250, sample="rand", rng=random.Random(0))

The rules are those of the published model (rounding included), so that a benchmark sees the same frames.
Every rule returns frame numbers; `pllava.video.reader` reads the frames. Another package can add a rule as an entry point of the group
`pllava.samplers`: a function `(num_frames, num_frames_total, fps) -> frame numbers` (docs/extending.md). The name of the entry point is
valid wherever "middle" is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from pllava.core.errors import PllavaError
from pllava.core.plugins import load, names

GROUP = "pllava.samplers"
UNBOUNDED = (-100000.0, 100000.0)  # seconds


def eval_indices(
    num_segments: int,
    num_frames_total: int,
    fps: float,
    bound: tuple[float, float] | None = None,
    first_index: int = 0,
) -> list[int]:
    """The frame numbers in the middle of `num_segments` equal segments between the two bounds.

    bound: start and end in seconds; None: the whole clip. first_index: 1 for folders of frames that are numbered from 1.
    A bound behind the end gives descending or out-of-range numbers, as published; `read_video` refuses such a bound.
    """
    _check(num_segments, num_frames_total)
    start, end = bound or UNBOUNDED
    first = max(first_index, round(start * fps))
    last = min(round(end * fps), num_frames_total - 1)
    segment = (last - first) / num_segments  # frames
    # Python's and numpy's `round` both go to the even neighbour; the sum is truncated.
    return [int(first + segment / 2 + np.round(segment * i)) for i in range(num_segments)]


def demo_indices(num_segments: int, num_frames_total: int) -> list[int]:
    """The demo's rule: the truncated half of a segment plus the rounded start of each segment."""
    _check(num_segments, num_frames_total)
    segment = (num_frames_total - 1) / num_segments
    return [int(segment / 2) + int(np.round(segment * i)) for i in range(num_segments)]


def train_indices(
    num_frames: int,
    num_frames_total: int,
    sample: str = "middle",
    fps: float = 1.0,
    max_num_frames: int = -1,
    fix_start: int | None = None,
    rng: random.Random | None = None,
) -> list[int]:
    """Frame numbers by a training rule.

    sample "middle": the middle of each interval. "rand": a random frame of each interval, except its last frame.
    A name of the group `pllava.samplers`: the rule of the entry point.
    "fpsX": X frames a second instead of `num_frames`, at most `max_num_frames` if positive. A short clip may give no frame.
    fix_start: the frame at this offset from the start of each interval ("middle" only).
    rng: generator of "rand"; None: Python's global generator, as published.
    For a clip with fewer than `num_frames` frames, the last sampled frame repeats.
    """
    _check(num_frames, num_frames_total)
    if sample.startswith("fps"):
        return _at_rate(_rate(sample), num_frames_total, fps, max_num_frames)
    if sample in names(GROUP):
        return _checked(sample, load(GROUP, sample)(num_frames, num_frames_total, fps), num_frames_total)
    if sample not in ("middle", "rand"):
        own = f", or one of {', '.join(names(GROUP))}" if names(GROUP) else ""
        raise PllavaError(f"sampling {sample!r} is unknown; use 'middle', 'rand' or 'fpsX' (X frames a second, as in 'fps2'){own}")
    edges = np.linspace(0, num_frames_total, min(num_frames, num_frames_total) + 1).astype(int).tolist()
    intervals = [(low, high - 1) for low, high in pairwise(edges)]  # both ends inclusive
    if sample == "rand":
        choose = rng.choice if rng else random.choice
        # An interval of a single frame gives this frame.
        indices = [choose(range(low, high)) if high > low else low for low, high in intervals]
    elif fix_start is not None:
        indices = [low + fix_start for low, _ in intervals]
    else:
        indices = [(low + high) // 2 for low, high in intervals]
    return indices + [indices[-1]] * (num_frames - len(indices))


def repeat_indices(num_frames: int, given: int, even: bool = False) -> list[int]:
    """For a clip of `given` frames, fewer than the model's `num_frames`: the frame at each of the `num_frames` positions.

    The published rule repeats every frame equally often and cuts the tail, so late frames may be lost (3 of 4: 0 0 1 1);
    even=True spreads all frames over the positions.
    """
    _check(num_frames, given)
    if given > num_frames:
        raise PllavaError(f"nothing to repeat: {given} frames are given, {num_frames} are wanted")
    if even:
        return [position * given // num_frames for position in range(num_frames)]
    times = num_frames // given + (given < num_frames)
    return [position // times for position in range(num_frames)]


def _at_rate(rate: float, num_frames_total: int, fps: float, max_num_frames: int) -> list[int]:
    step = 1 / rate  # seconds
    seconds = np.arange(step / 2, num_frames_total / fps + step / 2, step)
    indices = [int(i) for i in np.around(seconds * fps) if i < num_frames_total]
    return indices[:max_num_frames] if max_num_frames > 0 else indices


def _checked(name: str, indices: Iterable[int], num_frames_total: int) -> list[int]:
    """Frame numbers of another package's sampler, as ints. Raises PllavaError for none, or one outside the clip."""
    chosen = [int(index) for index in indices]
    if not chosen or min(chosen) < 0 or max(chosen) >= num_frames_total:
        raise PllavaError(f"sampler {name!r} chose frames {chosen[:5]} of a clip with frames 0 to {num_frames_total - 1}. Mend the sampler")
    return chosen


def _rate(sample: str) -> float:
    """X of "fpsX"."""
    try:
        rate = float(sample.removeprefix("fps"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1000:
        raise PllavaError(f"sampling {sample!r} needs a rate above 0 after 'fps', as in 'fps2' or 'fps0.5'")
    return rate


def _check(num_frames: int, num_frames_total: int) -> None:
    if num_frames < 1 or num_frames_total < 1:
        raise PllavaError(f"cannot take {num_frames} frame(s) of a clip with {num_frames_total}: both must be at least 1")
