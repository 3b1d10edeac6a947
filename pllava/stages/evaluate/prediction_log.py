"""The prediction log: each unit's answers are on disk before the next unit starts, so a killed evaluation can resume.

The log is a ledger with a row for each answer and each complete unit; all processes of an evaluation write to it. It lies outside the
stage's outputs, because DVC deletes the outputs before it runs a stage. Its name is a hash of everything the answers depend on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pllava.core import files
from pllava.core.ledger import Ledger

Row = dict[str, Any]


class PredictionLog:
    """A log that grows by one unit of answers at a time. `done`: numbers of the units that any process has completed."""

    def __init__(self, path: Path):
        self.path, self._ledger = path, Ledger(path)

    @property
    def done(self) -> set[int]:
        return {key for key in self._ledger if isinstance(key, int)}

    def add(self, unit: int, rows: Sequence[Row]) -> None:
        """Store the unit's rows, all or none; they are on disk when this returns."""
        self._ledger.add([*((_key(row["id"], row["model"]), row) for row in rows), (unit, len(rows))])

    def close(self) -> None:
        self._ledger.close()

    def remove(self) -> None:
        """Delete the log. Call it once the results are written."""
        self._ledger.remove()


class Answers:
    """Rows of the complete units, ordered by question, then by model.

    It can be iterated more than once; each row is read from disk as the iteration reaches it.
    index: {question id: position in the benchmark}. models: names, in the order of a question's rows.
    """

    def __init__(self, path: Path, index: Mapping[str, int], models: Sequence[str]):
        self.path, self.models = path, models
        self.ids = sorted(index, key=lambda id_: index[id_])

    def __iter__(self) -> Iterator[Row]:
        with Ledger(self.path) as ledger:
            for id_ in self.ids:
                for model in self.models:
                    if row := ledger.get(_key(id_, model)):
                        yield row


def finished(path: Path) -> set[int]:
    """Numbers of the units that any process has completed."""
    log = PredictionLog(path)
    try:
        return log.done
    finally:
        log.close()


def alone(path: Path, seconds: float = 0.0, rank: int | None = None) -> AbstractContextManager[None]:
    """Hold the lock of a prediction log, or the lock of one of the processes that write to it.

    Two evaluations must not share one log: the first to finish would delete it under the other.
    Raises PllavaError when another process still holds the lock after `seconds`.
    """
    name = path.parent.name
    busy = f"{name} is being evaluated with these settings by another process"
    return files.alone(path.parent.with_name(f"{name}-{path.stem}{'' if rank is None else f'.rank{rank}'}.lock"), busy, seconds)


def _key(id_: str, model: str) -> str:
    return json.dumps([id_, model])
