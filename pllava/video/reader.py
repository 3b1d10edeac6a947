"""A clip's frames with their times: `read_video("clip.mp4", num_frames=16)`.

Video files (decord or PyAV), animated pictures, folders of numbered frames and still images give the same `VideoFrames`. What they show
is decided in `pllava.video.presentation`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.container import VideoSource
from pllava.video.frames import VideoFrames, VideoInfo
from pllava.video.limits import Limits, time_bound
from pllava.video.presentation import MEND, SAME_TIME, on_screen
from pllava.video.sampling import demo_indices, eval_indices, train_indices
from pllava.video.stills import AnimationSource, FolderSource, ImageSource, kind_of

TICKS = 1000.0  # a second, of times at which a clip of variable rate is sampled
Source = VideoSource | FolderSource | AnimationSource | ImageSource


def probe(path: str | Path, limits: Limits | None = None) -> VideoInfo:
    """Length, rate and size. Decodes only the first frame. Raises PllavaError when the clip is unreadable."""
    with readable(path):
        source = _open(Path(path), limits or Limits(), "auto")
    return VideoInfo(len(source.times), source.fps, source.duration, source.width, source.height, source.reader, source.why)


def read_video(
    path: str | Path,
    num_frames: int = 16,
    sampling: str = "eval",
    start: float | None = None,
    end: float | None = None,
    reader: str = "auto",
    *,
    rng: random.Random | None = None,
    limits: Limits | None = None,
    time_limit: float | None = None,
) -> VideoFrames:
    """Sample frames of a clip.

    sampling: "eval" (benchmarks), "demo", "middle", "rand" (with `rng`) or "fpsX": see `pllava.video.sampling`; "videoqa" equals
    "eval" except for GIFs: the published VideoQA script counts one frame more there. start, end: seconds of the clock that a player
    shows; a later end than the clip's is cut, and start == end is the frame on screen at that time. reader: "pyav", "auto" or "decord":
    the last two take decord where it is proven right for the file, else PyAV; `why` of the result has the reason. time_limit: seconds;
    another process (0.5 s to start) reads the clip, and is killed at the limit. Without a time limit this process reads the clip: `limits`
    apply, but a crash of the decoder ends this process. For untrusted or many clips see `pllava.video.readers`.
    Raises PllavaError: missing, empty, damaged or oversized file, no video stream, start or end outside the clip.
    """
    path, limits = Path(path), limits or Limits()
    if reader not in ("auto", "decord", "pyav"):
        raise PllavaError(f"reader {reader!r} is unknown; use 'auto', 'decord' or 'pyav'")
    start, end = time_bound("start", start), time_bound("end", end)
    if time_limit is not None:
        from pllava.video.readers import Readers

        if rng is not None:
            raise PllavaError("rng and time_limit don't go together: a generator cannot be shared with another process")
        with Readers(1, time_limit, limits) as readers:
            return readers.read(path, num_frames, sampling, start=start, end=end, reader=reader)
    with readable(path):
        source = _open(path, limits, reader)
    indices = _choose_indices(source, num_frames, sampling, _part(source, start, end), rng)
    if not indices:
        raise PllavaError(
            f"{path}: sampling {sampling!r} takes no frame of {source.duration:.2f} s. Use a higher rate, or sampling='middle'"
        )
    limits.check_decoded(path, len(indices), source.width, source.height)
    with readable(path):
        frames = source.get(indices)
    times = source.times[np.asarray(indices) - source.first_index]
    return VideoFrames(frames, times, indices, source.fps, len(source.times), source.duration, source.reader, source.why)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn every exception into a PllavaError: on damaged files libraries raise AttributeError, OverflowError, struct.error and more."""
    try:
        yield
    except PllavaError:
        raise
    except Exception as error:
        raise PllavaError(f"{path}: not readable ({type(error).__name__}: {error}). {MEND}") from error


def kind_of_path(path: Path) -> str:
    """ "folder", "animation", "image" or "video". Raises PllavaError when the path is no readable file or folder."""
    try:
        exists = path.exists()
    except OSError as error:  # the name is too long
        raise PllavaError(f"{path}: no name of a file ({error.strerror})") from None
    if not exists:
        raise PllavaError(f"{path}: no such file or folder")
    try:
        str(path).encode()
    except UnicodeEncodeError:  # decoders take names as UTF-8
        raise PllavaError(f"{os.fsencode(path)!r}: the name is not UTF-8. Rename it") from None
    if not (path.is_file() or path.is_dir()):
        raise PllavaError(f"{path}: neither a file nor a folder of frames")
    try:
        return kind_of(path)
    except PermissionError:
        raise PllavaError(f"{path}: no permission to read it") from None


def _open(path: Path, limits: Limits, reader: str) -> Source:
    match kind_of_path(path):
        case "folder":
            return FolderSource(path, limits)
        case "animation":
            return AnimationSource(path, limits)
        case "image":
            return ImageSource(path, limits)
    return VideoSource(path, limits, reader)


def _part(source: Source, start: float | None, end: float | None) -> tuple[float, float] | None:
    """Start and end in seconds, checked; None for the whole clip."""
    if start is None and end is None:
        return None
    longest = max(source.duration, len(source.times) / source.fps)
    low, high = float(start or 0), source.duration if end is None else min(float(end), longest)
    if low > 0 and min(low, longest) >= source.duration - SAME_TIME:
        raise PllavaError(f"{source.path}: start {low} s is past the end of the clip, {source.duration:.2f} s")
    if not 0 <= low <= high:
        raise PllavaError(f"{source.path}: start {low} s, end {high} s: need 0 <= start <= end")
    return low, high


def _choose_indices(
    source: Source, num_frames: int, sampling: str, part: tuple[float, float] | None, rng: random.Random | None
) -> list[int]:
    first, total, rate = source.first_index, len(source.times), source.fps
    if isinstance(source, ImageSource):
        return [0]
    variable = not _constant_rate(source)
    if variable and sampling.startswith("fps"):
        return [position + first for position in _at_rate(source, num_frames, sampling, part)]
    if part is not None and (variable or part[0] == part[1] or round(part[0] * rate) >= total):
        # Frame number / average rate is not the time of a frame in this clip: find the frames by their times, and count in frames.
        begin, rate = on_screen(source.times, part[0]), 1.0
        if sampling in ("eval", "videoqa"):  # the last frame of the part is in it
            part = (begin + first, on_screen(source.times, part[1]) + first)
        else:
            part = (begin, max(begin, on_screen(source.times, part[1] - 2 * SAME_TIME)) + 1)
    if sampling in ("eval", "videoqa"):
        is_gif = isinstance(source, AnimationSource) and source.is_gif
        counted = total + 1 if sampling == "videoqa" and is_gif else total
        indices = eval_indices(num_frames, counted + first, rate, part, first)
        if is_gif:
            unique = sorted({i for i in indices if i < total})
            indices = [unique[i % len(unique)] for i in range(num_frames)]  # frames repeat from the start, as published
        return indices
    offset, length = 0, total
    if part is not None:
        offset = min(int(part[0] * rate), total - 1)
        length = max(1, int((part[1] - part[0]) * rate))
    local = demo_indices(num_frames, length) if sampling == "demo" else train_indices(num_frames, length, sampling, fps=source.fps, rng=rng)
    return [min(offset + i, total - 1) + first for i in local]


def _at_rate(source: Source, num_frames: int, sampling: str, part: tuple[float, float] | None) -> list[int]:
    """The frames on screen at the times of "fpsX"."""
    begin, end = part or (float(source.times[0]), source.duration)
    chosen = train_indices(num_frames, max(1, round((end - begin) * TICKS)), sampling, fps=TICKS)
    return [on_screen(source.times, begin + tick / TICKS) for tick in chosen]


def _constant_rate(source: Source) -> bool:
    """Whether the time of every frame is frame number / fps: to within half a frame, and without a frame that stays on screen."""
    drift = np.abs(source.times - np.arange(len(source.times)) / source.fps) * source.fps
    steps = np.diff(source.times) * source.fps
    return bool(drift.max() < 0.5 and steps.max(initial=1.0) < 1.5)
