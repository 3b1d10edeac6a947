"""What has been captioned so far, on disk: a kill at any time costs the videos under way and nothing else.

SQLite beside the output. Holds the inputs of this run in their order, and a row for each video that is done, which counts as long as the
file has the same size and time of change, and as long as the same model was asked the same.
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

Row = dict[str, Any]  # of a video; "error" instead of a caption where it failed
TABLES = """
CREATE TABLE IF NOT EXISTS run (settings TEXT);
CREATE TABLE IF NOT EXISTS inputs (position INTEGER PRIMARY KEY, path BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS done (path BLOB PRIMARY KEY, fingerprint TEXT, failed INTEGER, row TEXT) WITHOUT ROWID;
"""


class Store:
    """A context manager, for one process at a time. settings: a hash of what captions depend on besides the videos; rows of others go."""

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
        """How many there are; one that is named twice counts once."""
        self._database.execute("DELETE FROM inputs")
        self._database.executemany("INSERT OR IGNORE INTO inputs (path) VALUES (?)", ((os.fsencode(path),) for path in paths))
        self._database.commit()
        return self._count("inputs")

    def pending(self, batch_size: int) -> Iterator[list[str]]:
        """Batches of what is not captioned. Which videos are in one batch depends on their order alone, not on what is done already."""
        first, last = 0, -1
        reader = sqlite3.connect(self.path, timeout=60)
        try:
            last = reader.execute("SELECT COALESCE(MAX(position), 0) FROM inputs").fetchone()[0]
            for first in range(0, last + 1, batch_size):
                found = reader.execute(
                    "SELECT inputs.path, fingerprint FROM inputs LEFT JOIN done ON done.path = inputs.path AND NOT failed "
                    "WHERE position > ? AND position <= ? ORDER BY position",
                    (first, first + batch_size),
                ).fetchall()
                if batch := [os.fsdecode(path) for path, mark in found if mark is None or mark != stat_fingerprint(os.fsdecode(path))]:
                    yield batch
        finally:
            reader.close()

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """All of them, or none."""
        self._database.executemany(
            "REPLACE INTO done VALUES (?, ?, ?, ?)",
            [(os.fsencode(path), stat_fingerprint(path), "error" in row, json.dumps(row)) for path, row in rows],
        )
        self._database.commit()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Of all inputs that are done, in their order."""
        query = "SELECT inputs.path, row FROM inputs JOIN done ON done.path = inputs.path ORDER BY position"
        for path, row in self._database.execute(query):
            yield os.fsdecode(path), json.loads(row)

    def _count(self, table: str) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
