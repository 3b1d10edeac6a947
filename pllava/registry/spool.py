"""What MLflow could not be told, kept on disk until it answers: .state/tracking/<start>-<process>.jsonl, one training a file.

    spool.add({"metrics": [["loss", 0.5, 1700000000000, 10]]})      # name, value, milliseconds, step
    deliver(connection, root, create)                               # the files of trainings that are over; sent ones are removed

The first line says which run it is, or how to make it. A training that ended without a last word is recorded as killed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.files import atomic_write_text, process_is_alive

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
FOLDER = Path(".state/tracking")
METRICS_A_CALL = 200  # a call costs ~50 ms whatever its size
Entry = dict[str, Any]


class Spool:
    """The file of this process's training; it appears with the first thing that cannot be sent."""

    def __init__(self, root: Path, header: Entry) -> None:
        self.path = root / FOLDER / f"{int(time.time() * 1000)}-{os.getpid()}.jsonl"
        self.header = header

    @property
    def holds_something(self) -> bool:
        return self.path.exists()

    def add(self, entry: Entry) -> None:
        """Append a line and see it on disk."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.path, json.dumps(self.header) + "\n")
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def send(self, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
        """Send all of it, remove the file; the run's id. Raises what the connection raises, and then everything is still there."""
        return _send(self.path, connection, create)


def deliver(connection: MlflowClient, root: Path, create: Callable[[Entry], str]) -> int:
    """Send what trainings that are over have left; how many there were. Raises what the connection raises."""
    count = 0
    for path in sorted((root / FOLDER).glob("*.jsonl")):
        over = "status" in _lines(path)[-1]
        if not over and process_is_alive(int(path.stem.rsplit("-", 1)[1])):
            continue
        run_id = _send(path, connection, create)
        if connection.get_run(run_id).info.status == "RUNNING":
            connection.set_terminated(run_id, "KILLED")
        count += 1
    if count:
        log.warning("MLflow answers again: %d training(s) that were recorded without it are delivered", count)
    return count


def _send(path: Path, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
    from mlflow.entities import Metric, RunTag

    header, *entries = _lines(path)
    if header["run_id"] is None:
        header["run_id"] = create(header)
        atomic_write_text(path, "".join(json.dumps(entry) + "\n" for entry in (header, *entries)))  # a second try goes into the same run
    run_id: str = header["run_id"]
    metrics = [Metric(*values) for entry in entries for values in entry.get("metrics", ())]
    for some in _chunks(metrics, METRICS_A_CALL):
        connection.log_batch(run_id, metrics=some)
    for entry in entries:
        if "tags" in entry:
            connection.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["tags"].items()])
        if "artifacts" in entry and Path(entry["artifacts"][0]).exists():
            place, folder = entry["artifacts"]
            (connection.log_artifacts if Path(place).is_dir() else connection.log_artifact)(run_id, place, folder)
        if "status" in entry:
            connection.set_terminated(run_id, entry["status"], entry["time"])
    path.unlink()
    return run_id


def _lines(path: Path) -> list[Entry]:
    """Whole lines: a process that was killed while it wrote leaves half of one."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _chunks(items: list[Any], size: int) -> Iterator[Iterable[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
