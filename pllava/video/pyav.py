"""Decoding with PyAV (FFmpeg): slower than decord, but exact in every format, and damage raises instead of being concealed.

To reach a wanted frame, PyAV decodes from the last key frame before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.presentation import MEND, film, opened, upright
from pllava.video.timeline import Timeline, counted, decoded


def decode(path: Path, line: Timeline, indices: list[int], limits: Limits) -> np.ndarray:
    """uint8 [T, H, W, 3] at the size of the first frame: the size may change within a recording. Raises PllavaError at damage."""
    if line.keys:
        limits.check_work(path, frames_on_the_way(sorted(set(indices)), line.keys), line.width, line.height)
    pictures = _by_time(path, line, set(indices), limits) if line.pts else None
    pictures = pictures or _by_number(path, line, set(indices), limits)
    for index, picture in pictures.items():
        if picture.shape[:2] != (line.height, line.width):
            pictures[index] = np.asarray(Image.fromarray(picture).resize((line.width, line.height), Image.Resampling.BICUBIC))
    return np.stack([pictures[index] for index in indices])


def frames_on_the_way(wanted: Sequence[int], keys: Sequence[int]) -> int:
    """The number of frames to decode for the wanted frames (sorted), when decoding can begin at each of `keys`."""
    count, done = 0, -1
    for index in wanted:
        before = bisect_right(keys, index)
        begin = max(done + 1, keys[before - 1] if before else 0)
        count, done = count + index - begin + 1, index
    return count


def _by_time(path: Path, line: Timeline, wanted: set[int], limits: Limits) -> dict[int, np.ndarray] | None:
    """Pictures by frame number, decoded from the nearest key frames. None when the decoded times differ from the packets' times."""
    import av

    pictures: dict[int, np.ndarray] = {}
    try:
        with opened(path) as container:
            stream = film(container)
            stream.codec_context.options = {"err_detect": "explode"}
            frames = container.decode(stream)
            position = 0
            for index in sorted(wanted):
                before = bisect_right(line.keys, index)
                key = line.keys[before - 1] if before else 0
                if key > position:
                    container.seek(line.pts[key], stream=stream, backward=True)
                    frames = container.decode(stream)
                pts = line.pts[index]
                frame = next(frame for frame in counted(path, frames, limits) if frame.pts is None or frame.pts >= pts)
                if frame.pts != pts:
                    return None
                pictures[index], position = upright(frame), index
    except (av.FFmpegError, ValueError, StopIteration):
        return None
    return pictures


def _by_number(path: Path, line: Timeline, wanted: set[int], limits: Limits) -> dict[int, np.ndarray]:
    """Pictures by frame number, decoded from the start of the file."""
    pictures: dict[int, np.ndarray] = {}
    for number, (frame, _, _) in enumerate(decoded(path, limits)):
        if number in wanted:
            pictures[number] = upright(frame)
        if len(pictures) == len(wanted):
            return pictures
    raise PllavaError(f"{path}: damaged: {len(line.times)} frames by its index, {number + 1} decode. {MEND}")
