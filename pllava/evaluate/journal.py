"""Answers as they come in, on disk before the next ones are asked, so that a killed evaluation goes on where it was.

One line of JSON a unit of work, fsynced. A line torn by a kill is cut off at the next start. The file lies outside the stage's outputs,
because DVC deletes those before it runs a stage; its name carries a hash of everything the answers depend on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """`journal.done` maps a finished unit's number to its rows; `add` writes one more."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.done: dict[int, list[dict[str, Any]]] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        self._file.seek(whole)

    def _read(self) -> int:
        """Fill `done`; give the length in bytes of the whole lines."""
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
            except ValueError:  # a block that never reached the disk
                break
            self.done[entry["unit"]] = entry["rows"]
            whole += len(line)
        return whole

    def add(self, unit: int, rows: list[dict[str, Any]]) -> None:
        self._file.write(json.dumps({"unit": unit, "rows": rows}, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[unit] = rows

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """The results are written: the journal has served."""
        self.close()
        self.path.unlink(missing_ok=True)
