"""Rows by key that survive a kill: `with Ledger(path) as ledger: ledger.add([("clip.mp4", {"caption": "a dog"})])`.

A ledger is one SQLite file, and several processes may add to it. Progress of every kind is kept in ledgers: answers, captions, checks of
media, records for MLflow. Tensors are not: they are safetensors files.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.files import state_folder

Key = str | bytes | int
WAIT = 60.0  # seconds for another process that adds rows at the moment
PAGE = 1000  # rows that `items` holds in memory


class Ledger:
    """A context manager. A row is any value that JSON can hold.

    settings: a hash of everything the rows depend on; rows made with other settings are removed, and `dropped` counts them. None: keep all.
    table: a file may hold several ledgers, each in a table of its own.
    """

    def __init__(self, path: Path, settings: str | None = None, table: str = "rows") -> None:
        state_folder(path.parent)
        self.path, self.table, self.dropped = path, table, 0
        self._database = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        try:
            with self._transaction() as execute:
                execute(f"CREATE TABLE IF NOT EXISTS {table} (position INTEGER PRIMARY KEY, key UNIQUE NOT NULL, value TEXT NOT NULL)")
                execute("CREATE TABLE IF NOT EXISTS made_with (name TEXT PRIMARY KEY, settings TEXT)")
                if settings is not None and execute("SELECT settings FROM made_with WHERE name = ?", (table,)).fetchone() != (settings,):
                    self.dropped = execute(f"DELETE FROM {table}").rowcount
                    execute("REPLACE INTO made_with VALUES (?, ?)", (table, settings))
        except sqlite3.DatabaseError as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):  # a full disk, a missing right
                raise
            raise PllavaError(f"{path}: not the progress of an earlier run ({error}). Remove it to start over") from None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._database.execute(f"SELECT COUNT(*) FROM {self.table}").fetchone()[0])

    def add(self, rows: Iterable[tuple[Key, Any]]) -> None:
        """Store all rows, or none after an error; they are on disk when this returns. The row of a known key is replaced in its place."""
        insert = f"INSERT INTO {self.table} (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        with self._transaction():
            self._database.executemany(insert, ((key, json.dumps(value)) for key, value in rows))

    def get(self, key: Key) -> Any:
        """The row of a key; None without one."""
        row = self._database.execute(f"SELECT value FROM {self.table} WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def __iter__(self) -> Iterator[Key]:
        """Yields the keys, in the order in which they were first added."""
        return (key for key, _ in self._pages())

    def items(self) -> Iterator[tuple[Key, Any]]:
        """(key, row) of each key, in the order in which the keys were first added. Rows may be added meanwhile."""
        return ((key, json.loads(value)) for key, value in self._pages())

    def clear(self) -> None:
        """Remove all rows."""
        with self._transaction() as execute:
            execute(f"DELETE FROM {self.table}")

    def close(self) -> None:
        self._database.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _pages(self) -> Iterator[tuple[Key, str]]:
        position = 0
        query = f"SELECT position, key, value FROM {self.table} WHERE position > ? ORDER BY position LIMIT {PAGE}"
        while page := self._database.execute(query, (position,)).fetchall():
            yield from ((key, value) for _, key, value in page)
            position = page[-1][0]

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Take the right to write at once: two processes that both read first and write then would wait for each other."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database.execute
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
