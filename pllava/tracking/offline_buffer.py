"""Records that could not be sent to MLflow, kept on disk until it answers: .state/tracking/<start>-<process>.jsonl, one file a training.

    spool.add({"metrics": [["loss", 0.5, 1700000000000, 10]]})      # name, value, milliseconds, step
    deliver(connection, root, create)                               # sends and removes the files of ended trainings

The first line of a file holds the id of the run, or the values that create the run. A training that ended without a `status` line is
recorded as killed. Artifacts are copied to a folder beside the file, because the next training overwrites them. A training in a workspace
writes to its project folder, because the workspace is removed.
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
MAIN = "PLLAVA_MAIN"  # environment variable, set in a workspace: the project folder
PATIENCE = 600.0  # seconds to wait for another process that delivers
METRICS_A_CALL = 200  # a call costs ~50 ms whatever its size
Entry = dict[str, Any]


class Spool:
    """The file of this process's training. The first entry creates it."""

    def __init__(self, root: Path, header: Entry) -> None:
        self.path = _home(root) / f"{int(time.time() * 1000)}-{os.getpid()}.jsonl"
        self.header = header

    @property
    def has_entries(self) -> bool:
        return self.path.exists()

    def add(self, entry: Entry) -> None:
        """Append an entry and fsync. Artifacts that it names are copied first."""
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
        folder = self.path.with_suffix("")
        folder.mkdir(exist_ok=True)
        target = Path(tempfile.mkdtemp(dir=folder)) / source.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return str(target.relative_to(self.path.parent))

    def send(self, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
        """Send all entries and remove the file; returns the run's id. Raises the connection's errors, and then keeps the file."""
        return _send(self.path, connection, create)


def deliver(connection: MlflowClient, root: Path, create: Callable[[Entry], str]) -> int:
    """Send the files of ended trainings; returns their number. One process at a time delivers. Raises the connection's errors."""
    home = _home(root)
    if not any(home.glob("*.jsonl")):
        return 0
    with alone(home / "lock", "another process delivers what MLflow missed", PATIENCE):
        return _deliver(connection, sorted(home.glob("*.jsonl")), create)


def _deliver(connection: MlflowClient, paths: list[Path], create: Callable[[Entry], str]) -> int:
    count = 0
    for path in paths:
        ended = "status" in _lines(path)[-1]
        if not ended and process_is_alive(int(path.stem.rsplit("-", 1)[1])):
            continue
        run_id = _send(path, connection, create)
        if connection.get_run(run_id).info.status == "RUNNING":
            connection.set_terminated(run_id, "KILLED")
        count += 1
    if count:
        log.warning("MLflow answers again: %d training(s) that were recorded without it are delivered", count)
    return count


def _home(root: Path) -> Path:
    """The folder of the files: in the project folder, also for a workspace."""
    return Path(os.environ.get(MAIN) or root) / FOLDER


def _send(path: Path, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
    from mlflow.entities import Metric, RunTag

    header, *entries = _lines(path)
    if header["run_id"] is None:
        header["run_id"] = create(header)
        atomic_write_text(path, "".join(json.dumps(entry) + "\n" for entry in (header, *entries)))  # a retry continues this run
    run_id: str = header["run_id"]
    metrics = [Metric(*values) for entry in entries for values in entry.get("metrics", ())]
    for chunk in _chunks(metrics, METRICS_A_CALL):
        connection.log_batch(run_id, metrics=chunk)
    for entry in entries:
        if "tags" in entry:
            connection.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["tags"].items()])
        if "artifacts" in entry and (artifact := path.parent / entry["artifacts"][0]).exists():
            (connection.log_artifacts if artifact.is_dir() else connection.log_artifact)(run_id, str(artifact), entry["artifacts"][1])
        if "status" in entry:
            connection.set_terminated(run_id, entry["status"], entry["time"])
    path.unlink()
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return run_id


def _lines(path: Path) -> list[Entry]:
    """The complete lines of a file. A process that was killed while it wrote leaves an incomplete last line, which is dropped."""
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _chunks(items: list[Any], size: int) -> Iterator[Iterable[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
