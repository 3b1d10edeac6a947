"""Checks of media, one file at a time, decoded in other processes: `check_media(MediaJob("clip.mp4", (WHOLE,)), Readers(2))`.

Each distinct file is hashed once, and frames from its whole length are decoded once, however many rows name it (`media_checks` keeps the
reports).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.video.frames import VideoFrames, VideoInfo
    from pllava.video.readers import Readers

Bound = tuple[float | None, float | None]  # start, end in seconds
WHOLE: Bound = (None, None)

FRAMES_DECODED = 8  # frames a time bound, spread as training spreads them: damage shows only in frames that are decoded


@dataclass(frozen=True)
class MediaJob:
    """One file (or folder of numbered frames) and the time bounds that rows name."""

    path: str
    bounds: tuple[Bound, ...]


@dataclass
class MediaReport:
    """The report about one file. A problem is a (code, text).

    `problem` makes every row of the file unusable, an entry of `bound_problems` only the rows with that time bound.
    """

    path: str
    sha256: str = ""
    num_frames_total: int = 0
    fps: float = 0.0
    duration: float = 0.0  # seconds
    problem: tuple[str, str] | None = None
    bound_problems: dict[Bound, tuple[str, str]] = field(default_factory=dict)
    checked: set[Bound] = field(default_factory=set)  # the bounds that were checked so far
    transient: bool = False  # the reader died or took too long: the report is not kept, and the next run checks again

    @property
    def summary(self) -> tuple[object, ...]:
        """Every result of the check, in a fixed order."""
        bounds = sorted(self.bound_problems.items(), key=str)
        return self.sha256, self.num_frames_total, self.fps, self.duration, self.problem, bounds

    def problem_of(self, bound: Bound) -> tuple[str, str] | None:
        """(code, text) of the problem of a row with this bound; None when there is none."""
        return self.problem or self.bound_problems.get(bound)


def check_media(job: MediaJob, readers: Readers) -> MediaReport:
    """Check one file. A bad file raises nothing: the report holds its problem. Raises NoReader when no decoder is installed."""
    from pllava.benchmarks.mvbench import media_sha256
    from pllava.video.child import NoReader
    from pllava.video.readers import ReaderDied

    report = MediaReport(job.path)
    if not os.path.exists(job.path):  # noqa: PTH110  Path.exists raises for a name that is too long or holds a null byte
        report.problem = ("media missing", f"{job.path} is not there")
        return report
    if Path(job.path).is_file() and not Path(job.path).stat().st_size:
        report.problem = ("media empty", f"{job.path} holds no bytes")
        return report
    try:
        for bound in job.bounds:
            try:
                _describe(report, readers.decode(job.path, FRAMES_DECODED, "middle", *bound))
            except (NoReader, ReaderDied):
                raise
            except PllavaError as error:
                report.bound_problems[bound] = ("media unreadable" if bound == WHOLE else "media or time bound", str(error))
        if len(report.bound_problems) == len(job.bounds):
            _describe(report, readers.probe(job.path))
    except NoReader:
        raise
    except PllavaError as error:
        report.problem, report.transient = ("media unreadable", str(error)), isinstance(error, ReaderDied)
        return report
    report.sha256 = media_sha256(Path(job.path))
    return report


def _describe(report: MediaReport, info: VideoFrames | VideoInfo) -> None:
    report.num_frames_total, report.fps, report.duration = info.num_frames_total, info.fps, info.duration
