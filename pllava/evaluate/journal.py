"""Answers as they come in, on disk before the next ones are asked, so that a killed evaluation goes on where it was.

One line of JSON a unit of work, fsynced. A line torn by a kill is cut off at the next start. The file lies outside the stage's outputs,
because DVC deletes those before it runs a stage; its name carries a hash of everything the answers depend on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """`journal.done` holds the numbers of finished units; `add` writes one more. Rows are on disk, not in memory: `answered` reads them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.done: set[int] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        self._file.seek(whole)

    def _read(self) -> int:
        """Fill `done`; give the length in bytes of the whole lines."""
        whole = 0
        for entry, length in _whole_lines(self.path):
            self.done.add(entry["unit"])
            whole += length
        return whole

    def add(self, unit: int, rows: list[dict[str, Any]]) -> None:
        self._file.write(json.dumps({"unit": unit, "rows": rows}, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.add(unit)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """The results are written: the journal has served."""
        self.close()
        for path in shards(self.path):
            path.unlink(missing_ok=True)


def shard(path: Path, rank: int) -> Path:
    """The journal of one of several processes: `<key>.jsonl` -> `<key>.rank3.jsonl`."""
    return path.with_suffix(f".rank{rank}.jsonl")


def shards(path: Path) -> list[Path]:
    """All files of one evaluation, by any number of processes."""
    return sorted(file for file in path.parent.glob(f"{path.stem}*.jsonl") if file.name.split(".")[0] == path.stem)


def answered(path: Path) -> dict[int, list[dict[str, Any]]]:
    """What any process has answered so far. Only reads: a torn end is left to the journal's owner."""
    memo: dict[str, str] = {}
    found: dict[int, list[dict[str, Any]]] = {}
    for file in shards(path):
        for entry, _ in _whole_lines(file):
            for row in entry["rows"]:
                _share_strings(row, memo)
            found[entry["unit"]] = entry["rows"]
    return found


def _share_strings(row: dict[str, Any], memo: dict[str, str]) -> None:
    """Equal texts are one object: three models' rows hold the same question, many questions the same clip and options."""
    for key, value in row.items():
        if isinstance(value, str):
            row[key] = memo.setdefault(value, value)
        elif isinstance(value, list):
            row[key] = [memo.setdefault(item, item) if isinstance(item, str) else item for item in value]


def finished(path: Path) -> set[int]:
    """Numbers of the units that any process has answered so far."""
    return {entry["unit"] for file in shards(path) for entry, _ in _whole_lines(file)}


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(entry, length in bytes) up to the first line that is torn."""
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # a block that never reached the disk
                entry = None
            if entry is None:
                return
            yield entry, len(line)
