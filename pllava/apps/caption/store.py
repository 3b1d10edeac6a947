"""The captions made so far, in a ledger beside the output, so that a kill costs only the videos that are under way.

It holds the inputs of this run in their order, and a row for each video that is done. A row is valid while its video has the same size and
time of change, and the run has the same model and settings.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pllava.core.hashing import stat_fingerprint
from pllava.core.ledger import Ledger

Row = dict[str, Any]  # the caption of a video, or "error" instead


class Store:
    """A context manager, for one process at a time.

    settings: a hash of all that captions depend on but the videos; rows with another hash are removed. dropped: whether rows were removed.
    """

    def __init__(self, path: Path, settings: str, fresh: bool = False) -> None:
        self.path = path
        earlier = _set_aside(path)
        self._done = Ledger(path, settings)
        self._inputs = Ledger(path, table="inputs")
        self.dropped = self._done.dropped > 0
        if earlier:
            self.dropped |= not _take_over(earlier, self._done, settings)
            earlier.unlink()
        if fresh:
            self.dropped |= len(self._done) > 0
            self._done.clear()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        empty = not len(self._done)
        self._inputs.close()
        self._done.close()
        if empty:
            self.path.unlink(missing_ok=True)

    def set_inputs(self, paths: Iterable[str]) -> int:
        """Set the videos of this run. Returns their number; a path that occurs twice counts once."""
        self._inputs.clear()
        self._inputs.add((os.fsencode(path), None) for path in paths)
        return len(self._inputs)

    def pending(self, batch_size: int) -> Iterator[list[str]]:
        """Yields batches of paths without a caption. The batch of a path depends only on the order of the inputs, not on earlier runs."""
        paths = self._paths()
        while inputs := list(islice(paths, batch_size)):
            if batch := [path for path in inputs if not self._is_captioned(path)]:
                yield batch

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Store all rows, or none after an error."""
        self._done.add((os.fsencode(path), {"fingerprint": stat_fingerprint(path), "row": row}) for path, row in rows)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """(path, row) of each input that is done, in the order of the inputs."""
        for path in self._paths():
            if entry := self._done.get(os.fsencode(path)):
                yield path, entry["row"]

    def _paths(self) -> Iterator[str]:
        return (os.fsdecode(path) for path in self._inputs if isinstance(path, bytes))

    def _is_captioned(self, path: str) -> bool:
        entry = self._done.get(os.fsencode(path))
        return entry is not None and "error" not in entry["row"] and entry["fingerprint"] == stat_fingerprint(path)


def _set_aside(path: Path) -> Path | None:
    """Rename a file of an earlier version, which has a table `done`; returns its new path, also when a killed run has renamed it."""
    earlier = path.with_name(f"{path.name}.earlier")
    with suppress(sqlite3.DatabaseError):  # no database: the ledger refuses it
        with closing(sqlite3.connect(path)) as database:
            is_earlier = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'done'").fetchone()
        if is_earlier:
            path.replace(earlier)
    return earlier if earlier.exists() else None


def _take_over(earlier: Path, ledger: Ledger, settings: str) -> bool:
    """Add the captions of an earlier version's file to the ledger. Returns False when they were made with other settings."""
    with closing(sqlite3.connect(earlier)) as database:
        if database.execute("SELECT settings FROM run").fetchone() != (settings,):
            return False
        done = database.execute("SELECT path, fingerprint, row FROM done")
        ledger.add((path, {"fingerprint": fingerprint, "row": json.loads(row)}) for path, fingerprint, row in done)
    return True
