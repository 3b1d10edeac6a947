"""Checks of media that outlive a kill: `MediaChecks(STATE, workers=2).reports({"clip.mp4": [WHOLE]})`.

What was found about a file is kept in SQLite under .state/, with its size and time of change, as DVC does. A file is hashed and decoded
again when these differ, when another part of it is asked for, or when the code that checks is another.
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
from pllava.core.hashing import code_sha256, stat_fingerprint
from pllava.stages.prepare.media import Bound, MediaJob, MediaReport, check_media
from pllava.video.readers import Readers

CODE = ("video", "stages/prepare/media.py", "stages/prepare/media_checks.py")  # reads and judges a file
COMMIT_SECONDS = 2.0  # work that a kill costs at most, besides the files under way


class MediaChecks:
    """A context manager. workers: files that are checked at once, each decoded in a process of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
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

    def reports(self, asked: Mapping[str, Iterable[Bound]]) -> dict[str, MediaReport]:
        """Path -> report about the whole file and the asked parts of it."""
        found: dict[str, MediaReport] = {}
        jobs, prints = [], {}
        for path, bounds in asked.items():
            bounds, known = tuple(bounds), None
            prints[path] = stat_fingerprint(path)
            row = self._database.execute(REPORT_OF, (path, prints[path])).fetchone()
            if row:
                known = _load(path, row[0])
                bounds = tuple(bound for bound in bounds if bound not in known.checked)
                found[path] = known
            if not row or (bounds and known and not known.problem):
                jobs.append(MediaJob(path, bounds))
        saved = time.monotonic()
        for job, report in self._check(jobs):
            self.decoded += 1
            report.checked = set(job.bounds)
            if before := found.get(report.path):
                report.checked |= before.checked
                report.bound_problems = {**before.bound_problems, **report.bound_problems}
            found[report.path] = report
            if not report.passing:
                self._database.execute("REPLACE INTO media VALUES (?, ?, ?)", (report.path, prints[report.path], _dump(report)))
            if time.monotonic() - saved > COMMIT_SECONDS:
                self._database.commit()
                saved = time.monotonic()
        self._database.commit()
        return found

    def _check(self, jobs: list[MediaJob]) -> Iterator[tuple[MediaJob, MediaReport]]:
        """In the order of the jobs, whatever the number of workers."""
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
    problems = {bound: (found[0], found[1]) for bound, found in bounds.items() if found}
    return MediaReport(path, **values, problem=tuple(problem) if problem else None, bound_problems=problems, checked=set(bounds))
