"""Video files: decord (fast, random access) where the file's packets prove it right, else PyAV."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from pllava.video import pyav
from pllava.video.limits import Limits
from pllava.video.timeline import Timeline, timeline

log = logging.getLogger(__name__)
NARROW = 256  # pixels; only in narrower frames can a padded row be a multiple of the width
ALIGNED = 64  # pixels; rows of a multiple are never padded
# decord reads at most 10,000 packets to reach a frame. When the frame is not decoded by then, decord returns another without an error.
MOST_FRAMES = 10_000


class CannotDecode(Exception):
    """decord may give other frames than a player shows, or none."""


class VideoSource:
    """A video file. times: seconds of each frame on the player's clock. reader, why: the decoder, and why it is not decord."""

    first_index = 0

    def __init__(self, path: Path, limits: Limits, reader: str) -> None:
        self.path, self.limits = path, limits
        self.line = line = timeline(path, limits)
        self.times, self.duration, self.fps, self.width, self.height = line.times, line.duration, line.fps, line.width, line.height
        self.reader, self.why, self._video = "pyav", "", None
        if reader != "pyav":
            try:
                self._video, self.reader = _proven(path, line), "decord"
            except CannotDecode as error:
                self._leave_decord(error)

    def get(self, indices: list[int]) -> np.ndarray:
        """uint8 [T, H, W, 3]. When decord fails inside the file, PyAV reads the frames, or raises PllavaError."""
        if self._video is not None:
            unique = sorted(set(indices))
            self.limits.check_work(self.path, pyav.frames_on_the_way(unique, self.line.keys), self.width, self.height)
            try:
                frames = _decode(self._video, unique, self.line)
                return frames if unique == indices else frames[np.searchsorted(unique, indices)]
            except CannotDecode as error:
                self._leave_decord(error)
        return pyav.decode(self.path, self.line, indices, self.limits)

    def _leave_decord(self, error: CannotDecode) -> None:
        self._video, self.reader, self.why = None, "pyav", f"not decord: {error}"
        log.warning("%s: read by PyAV, %s", self.path, self.why)


def _proven(path: Path, line: Timeline) -> Any:
    """A decord.VideoReader. Raises CannotDecode unless its count, times and first picture are those of the file's packets."""
    import decord

    count = len(line.times)
    if line.doubt:
        raise CannotDecode(line.doubt)
    if count > MOST_FRAMES:
        raise CannotDecode(f"of more than {MOST_FRAMES} frames it may give others than it was asked for")
    try:
        video = decord.VideoReader(str(path), num_threads=1, fault_tol=0)
        if len(video) != count:
            raise CannotDecode(f"it counts {len(video)} frames, the file shows {count}")
        seconds = video.get_frame_timestamp([0, count - 1])[:, 0]
    except _errors() as error:
        raise CannotDecode(_first_line(error)) from error
    if any(
        abs(one - other) > 1e-3 + 1e-6 * abs(other) for one, other in zip(seconds, line.seconds, strict=True)
    ):  # decord keeps 32 bits of a time
        raise CannotDecode(
            f"its frames are at {seconds[0]:.3f} to {seconds[1]:.3f} s, the file's at {line.seconds[0]:.3f} to {line.seconds[1]:.3f} s"
        )
    if line.turned is not None and np.abs(_decode(video, [0], line)[0].astype(np.int16) - line.turned).mean() > 1:
        raise CannotDecode("it does not turn the picture as the display matrix says")
    return video


def _decode(video: Any, indices: list[int], line: Timeline) -> np.ndarray:
    """uint8 [T, H, W, 3]. indices: sorted."""
    try:
        if line.width > NARROW or line.width % ALIGNED == 0:
            frames = video.get_batch(indices).asnumpy()
        else:
            frames = np.stack([_without_padding(video[index].asnumpy()) for index in indices])
    except _errors() as error:
        raise CannotDecode(_first_line(error)) from error
    if frames.shape[1:] != (line.height, line.width, 3):
        raise CannotDecode(f"its frames are {frames.shape[2]}x{frames.shape[1]}, the file's {line.width}x{line.height}")
    return frames


def _errors() -> tuple[type[Exception], ...]:
    import decord

    return RuntimeError, decord.DECORDError, IndexError  # DECORDError is not a RuntimeError


def _without_padding(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] from decord's frame [H, W, C].

    FFmpeg pads rows to the processor's vector width. Where the padded row is a whole multiple of the width (96 pixels: 384 bytes for 288),
    decord reports C > 3 channels, and its batch read fails. The pixels are still the first 3 * W bytes of each row.
    """
    height, width = frame.shape[:2]
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+: )+", "", line)[:300]  # without decord's source position
