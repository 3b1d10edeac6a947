"""The captions made so far, on disk, so that a kill costs only the videos that are under way.

An SQLite file beside the output. It holds the inputs of this run in their order, and a row for each video that is done. A row is valid
while its video has the same size and time of change, and the run has the same model and settings.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.hashing import stat_fingerprint

Row = dict[str, Any]  # the caption of a video, or "error" instead
TABLES = """
CREATE TABLE IF NOT EXISTS run (settings TEXT);
CREATE TABLE IF NOT EXISTS inputs (position INTEGER PRIMARY KEY, path BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS done (path BLOB PRIMARY KEY, fingerprint TEXT, failed INTEGER, row TEXT) WITHOUT ROWID;
"""


class Store:
    """A context manager, for one process at a time.

    settings: a hash of all that captions depend on but the videos; rows with another hash are removed. dropped: whether rows were removed.
    """

    def __init__(self, path: Path, settings: str, fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._database = sqlite3.connect(path, timeout=60)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(TABLES)
        except sqlite3.DatabaseError as error:
            raise PllavaError(f"{path}: not the progress of a captioning run ({error}). Remove it to start over") from None
        before = self._database.execute("SELECT settings FROM run").fetchone()
        self.dropped = bool(before and (fresh or before[0] != settings) and self._count("done"))
        if not before or fresh or before[0] != settings:
            self._database.execute("DELETE FROM done")
        self._database.execute("DELETE FROM run")
        self._database.execute("INSERT INTO run (settings) VALUES (?)", (settings,))
        self._database.commit()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        empty = not self._count("done")
        self._database.close()
        if empty:
            self.path.unlink(missing_ok=True)

    def set_inputs(self, paths: Iterable[str]) -> int:
        """Set the videos of this run. Returns their number; a path that occurs twice counts once."""
        self._database.execute("DELETE FROM inputs")
        self._database.executemany("INSERT OR IGNORE INTO inputs (path) VALUES (?)", ((os.fsencode(path),) for path in paths))
        self._database.commit()
        return self._count("inputs")

    def pending(self, batch_size: int) -> Iterator[list[str]]:
        """Yields batches of paths without a caption. The batch of a path depends only on the order of the inputs, not on earlier runs."""
        reader = sqlite3.connect(self.path, timeout=60)
        try:
            last = reader.execute("SELECT COALESCE(MAX(position), 0) FROM inputs").fetchone()[0]
            for first in range(0, last + 1, batch_size):
                inputs = reader.execute(
                    "SELECT inputs.path, fingerprint FROM inputs LEFT JOIN done ON done.path = inputs.path AND NOT failed "
                    "WHERE position > ? AND position <= ? ORDER BY position",
                    (first, first + batch_size),
                ).fetchall()
                paths = [(os.fsdecode(path), fingerprint) for path, fingerprint in inputs]
                if batch := [path for path, fingerprint in paths if fingerprint is None or fingerprint != stat_fingerprint(path)]:
                    yield batch
        finally:
            reader.close()

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Store all rows, or none after an error."""
        self._database.executemany(
            "REPLACE INTO done VALUES (?, ?, ?, ?)",
            [(os.fsencode(path), stat_fingerprint(path), "error" in row, json.dumps(row)) for path, row in rows],
        )
        self._database.commit()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """(path, row) of each input that is done, in the order of the inputs."""
        query = "SELECT inputs.path, row FROM inputs JOIN done ON done.path = inputs.path ORDER BY position"
        for path, row in self._database.execute(query):
            yield os.fsdecode(path), json.loads(row)

    def _count(self, table: str) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
