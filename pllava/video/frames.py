"""Results of reading a clip: `VideoFrames`, or `VideoInfo` without frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VideoInfo:
    """Length, frame rate and size of a clip."""

    num_frames_total: int
    fps: float
    duration: float  # seconds
    width: int
    height: int
    reader: str
    why: str = ""  # why decord does not read it


@dataclass(frozen=True)
class VideoFrames:
    """Sampled frames. `indices` are frame numbers in the file (from 1 in a frame folder); a frame may repeat."""

    frames: np.ndarray  # uint8 [T, H, W, 3], RGB, upright
    times: np.ndarray  # float64 [T], seconds of the clock that a player shows
    indices: list[int]
    fps: float  # average
    num_frames_total: int
    duration: float  # seconds of the same clock, at the end of the last frame
    reader: str  # the decoder: "decord", "pyav" or "pillow"
    why: str = ""  # why decord does not read it

    @property
    def read_by(self) -> str:
        """The decoder, with the reason when it is not the usual one."""
        return f"{self.reader} ({self.why})" if self.why else self.reader
