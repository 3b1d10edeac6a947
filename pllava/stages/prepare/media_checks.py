"""Checks of media that survive a kill: `MediaChecks(STATE, workers=2).reports({"clip.mp4": [WHOLE]})`.

The report about a file is kept in a ledger under .state/, with the file's size and time of change. A file is hashed and decoded again when
size or time differ, when a row names another time bound, or when the code that checks has changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from pllava.artifacts.media_hashes import FILE
from pllava.core.hashing import code_sha256, stat_fingerprint
from pllava.core.ledger import Ledger
from pllava.stages.prepare.media import Bound, MediaJob, MediaReport, check_media
from pllava.video.readers import Readers

CODE = ("video", "stages/prepare/media.py", "stages/prepare/media_checks.py")  # the code that reads and checks a file
FACTS = ("sha256", "num_frames_total", "fps", "duration")  # of a report, kept as they are
SAVE_SECONDS = 2.0  # a kill loses the reports of at most this time, and the files being checked


class MediaChecks:
    """A context manager. workers: number of files checked at once, each decoded in its own process."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.workers, self.decoded = workers, 0
        self._readers = Readers(workers)
        self._ledger = Ledger(folder / FILE, code_sha256(*CODE, packages=("decord2", "av", "pillow")))

    def __enter__(self) -> MediaChecks:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.close()
        self._ledger.close()

    def reports(self, requested: Mapping[str, Iterable[Bound]]) -> dict[str, MediaReport]:
        """Path -> report about the file and its requested time bounds. requested: path -> bounds."""
        reports: dict[str, MediaReport] = {}
        jobs, fingerprints = [], {}
        for path, bounds in requested.items():
            bounds, known = tuple(bounds), None
            fingerprints[path] = stat_fingerprint(path)
            row = self._ledger.get(path)
            if row and row["fingerprint"] == fingerprints[path]:
                known = reports[path] = _load(path, row)
                bounds = tuple(bound for bound in bounds if bound not in known.checked)
            if not known or (bounds and not known.problem):
                jobs.append(MediaJob(path, bounds))
        saved, checked = time.monotonic(), []
        for job, report in self._check(jobs):
            self.decoded += 1
            report.checked = set(job.bounds)
            if before := reports.get(report.path):
                report.checked |= before.checked
                report.bound_problems = {**before.bound_problems, **report.bound_problems}
            reports[report.path] = report
            if not report.transient:
                checked.append((report.path, {"fingerprint": fingerprints[report.path]} | _dump(report)))
            if time.monotonic() - saved > SAVE_SECONDS:
                self._ledger.add(checked)
                saved, checked = time.monotonic(), []
        self._ledger.add(checked)
        return reports

    def _check(self, jobs: list[MediaJob]) -> Iterator[tuple[MediaJob, MediaReport]]:
        """Each job with its report, in the order of the jobs."""
        threads = ThreadPoolExecutor(self.workers)
        try:
            yield from zip(jobs, threads.map(partial(check_media, readers=self._readers), jobs), strict=True)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _dump(report: MediaReport) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(report, name) for name in (*FACTS, "problem")}
    values["bounds"] = [[*bound, report.bound_problems.get(bound)] for bound in sorted(report.checked, key=str)]
    return values


def _load(path: str, row: dict[str, Any]) -> MediaReport:
    bounds = {(start, end): problem for start, end, problem in row["bounds"]}
    values = {name: row[name] for name in FACTS}
    problem = row["problem"]
    bound_problems = {bound: (reason[0], reason[1]) for bound, reason in bounds.items() if reason}
    return MediaReport(path, **values, problem=tuple(problem) if problem else None, bound_problems=bound_problems, checked=set(bounds))
