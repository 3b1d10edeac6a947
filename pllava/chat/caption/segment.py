"""A part of a video with its caption."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """start, end: seconds since the start of the file, by its timestamps; `end_frame` is the first frame behind the segment."""

    start: float
    end: float
    text: str
    start_frame: int = 0
    end_frame: int = 0
