"""What MLflow could not be told, kept on disk until it answers: .state/tracking/<start>-<process>.jsonl, one training a file.

    spool.add({"metrics": [["loss", 0.5, 1700000000000, 10]]})      # name, value, milliseconds, step
    deliver(connection, root, create)                               # the files of trainings that are over; sent ones are removed

The first line says which run it is, or how to make it. A training that ended without a last word is recorded as killed. Files
of the run are copied to a folder beside, for the next training writes over them. A workspace, which is removed, keeps all in its project.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.files import alone, atomic_write_text, process_is_alive

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
FOLDER = Path(".state/tracking")
MAIN = "PLLAVA_MAIN"  # in the environment of a workspace: the project folder it was made from
PATIENCE = 600.0  # seconds for another process that delivers
METRICS_A_CALL = 200  # a call costs ~50 ms whatever its size
Entry = dict[str, Any]


class Spool:
    """The file of this process's training; it appears with the first thing that cannot be sent."""

    def __init__(self, root: Path, header: Entry) -> None:
        self.path = _home(root) / f"{int(time.time() * 1000)}-{os.getpid()}.jsonl"
        self.header = header

    @property
    def holds_something(self) -> bool:
        return self.path.exists()

    def add(self, entry: Entry) -> None:
        """Append a line and see it on disk."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.path, json.dumps(self.header) + "\n")
        if "artifacts" in entry:
            entry = {"artifacts": [self._copy(Path(entry["artifacts"][0])), entry["artifacts"][1]]}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _copy(self, source: Path) -> str:
        beside = self.path.with_suffix("")
        beside.mkdir(exist_ok=True)
        target = Path(tempfile.mkdtemp(dir=beside)) / source.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return str(target.relative_to(self.path.parent))

    def send(self, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
        """Send all of it, remove the file; the run's id. Raises what the connection raises, and then everything is still there."""
        return _send(self.path, connection, create)


def deliver(connection: MlflowClient, root: Path, create: Callable[[Entry], str]) -> int:
    """Send what trainings that are over have left, one process at a time; how many there were. Raises what the connection raises."""
    home = _home(root)
    if not any(home.glob("*.jsonl")):
        return 0
    with alone(home / "lock", "another process delivers what MLflow missed", PATIENCE):
        return _deliver(connection, sorted(home.glob("*.jsonl")), create)


def _deliver(connection: MlflowClient, paths: list[Path], create: Callable[[Entry], str]) -> int:
    count = 0
    for path in paths:
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


def _home(root: Path) -> Path:
    return Path(os.environ.get(MAIN) or root) / FOLDER


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
        if "artifacts" in entry and (place := path.parent / entry["artifacts"][0]).exists():
            (connection.log_artifacts if place.is_dir() else connection.log_artifact)(run_id, str(place), entry["artifacts"][1])
        if "status" in entry:
            connection.set_terminated(run_id, entry["status"], entry["time"])
    path.unlink()
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
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
