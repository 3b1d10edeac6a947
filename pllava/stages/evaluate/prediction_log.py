"""Answers as they come in, on disk before the next ones are asked, so that a killed evaluation goes on where it was.

One line of JSON an answer, then one that says its unit of work is whole; fsynced a unit. What a kill left without that line is cut off at
the next start. The file lies outside the stage's outputs, because DVC deletes those before it runs a stage; its name carries a hash of
everything the answers depend on. Answers are never all in memory: `Answers` finds each by its place in the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pllava.core import files

Row = dict[str, Any]


class PredictionLog:
    """`journal.done` holds the numbers of finished units; `add` writes one more."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.done: set[int] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        for unit, _, end in _whole_units(self.path):
            self.done.add(unit)
            whole = end
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        self._file.seek(whole)

    def add(self, unit: int, rows: Sequence[Row]) -> None:
        lines = [*rows, {"unit": unit, "rows": len(rows)}]
        self._file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
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


class Answers:
    """Rows of finished units of any process, in the order of the benchmark, the models of a question side by side.

    Iterate as often as needed: a row is read from disk when its turn comes. place: {id of a question: its index}; models: in their order.
    """

    def __init__(self, path: Path, place: Mapping[str, int], models: Sequence[str]):
        self._files = shards(path)
        at: np.ndarray = np.full((len(place), len(models), 2), -1, np.int64)  # [questions, models, (file, offset in bytes)]
        for number, file in enumerate(self._files):
            for _, rows, _ in _whole_units(file, lambda row: (place[row["id"]], models.index(row["model"]))):
                for where, offset in rows:
                    at[where] = number, offset
        flat = at.reshape(-1, 2)
        self._at = flat[flat[:, 0] >= 0]

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Row]:
        with ExitStack() as stack:
            files = [stack.enter_context(file.open("rb")) for file in self._files]
            for number, offset in self._at:
                files[number].seek(offset)
                yield json.loads(files[number].readline())


def alone(path: Path, seconds: float = 0.0) -> AbstractContextManager[None]:
    """Two evaluations must not work at one journal: the first to end would take it from the other."""
    name = path.parent.name
    busy = f"{name} is being evaluated with these settings by another process"
    return files.alone(path.parent.with_name(f"{name}-{path.stem}.lock"), busy, seconds)


def shard(path: Path, rank: int) -> Path:
    """The journal of one of several processes: `<key>.jsonl` -> `<key>.rank3.jsonl`."""
    return path.with_suffix(f".rank{rank}.jsonl")


def shards(path: Path) -> list[Path]:
    """All files of one evaluation, by any number of processes."""
    return sorted(file for file in path.parent.glob(f"{path.stem}*.jsonl") if file.name.split(".")[0] == path.stem)


def finished(path: Path) -> set[int]:
    """Numbers of the units that any process has answered so far. Only reads: a torn end is left to the journal's owner."""
    return {unit for file in shards(path) for unit, _, _ in _whole_units(file)}


def _whole_units(path: Path, key: Callable[[Row], Any] = lambda row: None) -> Iterator[tuple[int, list[tuple[Any, int]], int]]:
    """(unit, [(key of a row, its offset)], where the unit ends) up to the first line that is torn."""
    if not path.is_file():
        return
    rows: list[tuple[Any, int]] = []
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # a block that never reached the disk
                entry = None
            if not isinstance(entry, dict):
                return
            if "unit" not in entry:
                rows.append((key(entry), offset))
            elif entry["rows"] != len(rows):
                return
            offset += len(line)
            if "unit" in entry:
                yield entry["unit"], rows, offset
                rows = []
