"""A part of a video and what it shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """start, end: seconds since the start of the file, by its timestamps; `end_frame` is the first frame that does not belong to it."""

    start: float
    end: float
    text: str
    start_frame: int = 0
    end_frame: int = 0
