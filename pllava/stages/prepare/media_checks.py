"""Checks of media that survive a kill: `MediaChecks(STATE, workers=2).reports({"clip.mp4": [WHOLE]})`.

The report about a file is kept in SQLite under .state/, with the file's size and time of change. A file is hashed and decoded again when
size or time differ, when a row names another time bound, or when the code that checks has changed.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from pllava.artifacts.media_hashes import REPORT_OF
from pllava.core.files import state_folder
from pllava.core.hashing import code_sha256, stat_fingerprint
from pllava.stages.prepare.media import Bound, MediaJob, MediaReport, check_media
from pllava.video.readers import Readers

CODE = ("video", "stages/prepare/media.py", "stages/prepare/media_checks.py")  # the code that reads and checks a file
COMMIT_SECONDS = 2.0  # a kill loses the reports of at most this time, and the files being checked


class MediaChecks:
    """A context manager. workers: number of files checked at once, each decoded in its own process."""

    def __init__(self, folder: Path, workers: int) -> None:
        state_folder(folder)
        self.workers, self.decoded = workers, 0
        self._readers = Readers(workers)
        self._database = sqlite3.connect(folder / "media.sqlite", timeout=60)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS code (sha256 TEXT)")
        self._database.execute("CREATE TABLE IF NOT EXISTS media (path TEXT PRIMARY KEY, fingerprint TEXT, report TEXT) WITHOUT ROWID")
        if self._database.execute("SELECT sha256 FROM code").fetchall() != [
            (code := code_sha256(*CODE, packages=("decord2", "av", "pillow")),)
        ]:
            self._database.executescript("DELETE FROM code; DELETE FROM media")
            self._database.execute("INSERT INTO code VALUES (?)", (code,))
        self._database.commit()

    def __enter__(self) -> MediaChecks:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.close()
        self._database.commit()
        self._database.close()

    def reports(self, requested: Mapping[str, Iterable[Bound]]) -> dict[str, MediaReport]:
        """Path -> report about the file and its requested time bounds. requested: path -> bounds."""
        reports: dict[str, MediaReport] = {}
        jobs, fingerprints = [], {}
        for path, bounds in requested.items():
            bounds, known = tuple(bounds), None
            fingerprints[path] = stat_fingerprint(path)
            row = self._database.execute(REPORT_OF, (path, fingerprints[path])).fetchone()
            if row:
                known = _load(path, row[0])
                bounds = tuple(bound for bound in bounds if bound not in known.checked)
                reports[path] = known
            if not row or (bounds and known and not known.problem):
                jobs.append(MediaJob(path, bounds))
        saved = time.monotonic()
        for job, report in self._check(jobs):
            self.decoded += 1
            report.checked = set(job.bounds)
            if before := reports.get(report.path):
                report.checked |= before.checked
                report.bound_problems = {**before.bound_problems, **report.bound_problems}
            reports[report.path] = report
            if not report.transient:
                self._database.execute("REPLACE INTO media VALUES (?, ?, ?)", (report.path, fingerprints[report.path], _dump(report)))
            if time.monotonic() - saved > COMMIT_SECONDS:
                self._database.commit()
                saved = time.monotonic()
        self._database.commit()
        return reports

    def _check(self, jobs: list[MediaJob]) -> Iterator[tuple[MediaJob, MediaReport]]:
        """Each job with its report, in the order of the jobs."""
        threads = ThreadPoolExecutor(self.workers)
        try:
            yield from zip(jobs, threads.map(partial(check_media, readers=self._readers), jobs), strict=True)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _dump(report: MediaReport) -> str:
    values: dict[str, Any] = {name: getattr(report, name) for name in ("sha256", "num_frames_total", "fps", "duration", "problem")}
    values["bounds"] = [[*bound, report.bound_problems.get(bound)] for bound in sorted(report.checked, key=str)]
    return json.dumps(values)


def _load(path: str, text: str) -> MediaReport:
    values = json.loads(text)
    bounds = {(start, end): problem for start, end, problem in values.pop("bounds")}
    problem = values.pop("problem")
    bound_problems = {bound: (reason[0], reason[1]) for bound, reason in bounds.items() if reason}
    return MediaReport(path, **values, problem=tuple(problem) if problem else None, bound_problems=bound_problems, checked=set(bounds))
