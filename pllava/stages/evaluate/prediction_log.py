"""The prediction log: each unit's answers are written to disk before the next unit starts, so a killed evaluation can resume.

Each answer is one line of JSON. A last line per unit marks the unit as complete, and the file is fsynced after each unit. The next start
cuts off answers without such a mark. The file lies outside the stage's outputs, because DVC deletes the outputs before it runs a stage.
The file's name carries a hash of everything the answers depend on. `Answers` reads rows by their offset, so memory holds one row at a time.
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
from pllava.core.files import state_folder

Row = dict[str, Any]


class PredictionLog:
    """A file that grows by one unit of answers at a time. `done`: numbers of the units it holds.

    Opening a log cuts off the rows of a unit that was not completed.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.done: set[int] = set()
        state_folder(self.path.parent)
        whole = 0
        for unit, _, end in _whole_units(self.path):
            self.done.add(unit)
            whole = end
        self._file = self.path.open("ab")
        self._file.truncate(whole)
        self._file.seek(whole)

    def add(self, unit: int, rows: Sequence[Row]) -> None:
        """Append a unit's rows and its mark; the data is on disk when this returns."""
        lines = [*rows, {"unit": unit, "rows": len(rows)}]
        self._file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.add(unit)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Delete the log and the logs of all processes of this evaluation. Call it once the results are written."""
        self.close()
        for path in shards(self.path):
            path.unlink(missing_ok=True)


class Answers:
    """Rows of the complete units of all processes, ordered by question, then by model.

    It can be iterated more than once; each row is read from disk as the iteration reaches it.
    index: {question id: position in the benchmark}. models: names, in the order of a question's rows.
    """

    def __init__(self, path: Path, index: Mapping[str, int], models: Sequence[str]):
        self._files = shards(path)
        at: np.ndarray = np.full((len(index), len(models), 2), -1, np.int64)  # [questions, models, (file, offset in bytes)]
        for number, file in enumerate(self._files):
            for _, rows, _ in _whole_units(file, lambda row: (index[row["id"]], models.index(row["model"]))):
                for cell, offset in rows:
                    at[cell] = number, offset
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
    """Hold the lock of a prediction log. Two evaluations must not share one log: the first to finish would delete it under the other.

    Raises PllavaError when another process still holds the lock after `seconds`.
    """
    name = path.parent.name
    busy = f"{name} is being evaluated with these settings by another process"
    return files.alone(path.parent.with_name(f"{name}-{path.stem}.lock"), busy, seconds)


def shard(path: Path, rank: int) -> Path:
    """Path of one process's log: `<key>.jsonl` -> `<key>.rank3.jsonl`."""
    return path.with_suffix(f".rank{rank}.jsonl")


def shards(path: Path) -> list[Path]:
    """Logs of all processes of one evaluation, sorted by name."""
    return sorted(file for file in path.parent.glob(f"{path.stem}*.jsonl") if file.name.split(".")[0] == path.stem)


def finished(path: Path) -> set[int]:
    """Numbers of the units that any process has completed. Changes no file: only the log's owner cuts off an incomplete unit."""
    return {unit for file in shards(path) for unit, _, _ in _whole_units(file)}


def _whole_units(path: Path, key: Callable[[Row], Any] = lambda row: None) -> Iterator[tuple[int, list[tuple[Any, int]], int]]:
    """Yield (unit number, [(key of a row, offset of its line in bytes)], end offset of the unit), up to the first damaged line."""
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
