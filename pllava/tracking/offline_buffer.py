"""Records that could not be sent to MLflow, kept on disk until it answers: .state/tracking/<start>-<process>.ledger, one a training.

    spool.add({"metrics": [["loss", 0.5, 1700000000000, 10]]})      # name, value, milliseconds, step
    deliver(connection, root, create)                               # sends and removes the files of ended trainings

The first row of a ledger holds the id of the run, or the values that create the run. A training that ended without a `status` row is
recorded as killed. Artifacts are copied to a folder beside the ledger, because the next training overwrites them. A training in a workspace
writes to its project folder, because the workspace is removed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pllava.core.files import alone
from pllava.core.ledger import Ledger

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
FOLDER = Path(".state/tracking")
MAIN = "PLLAVA_MAIN"  # environment variable, set in a workspace: the project folder
PATIENCE = 600.0  # seconds to wait for another process that delivers
METRICS_A_CALL = 200  # a call costs ~50 ms whatever its size
EARLIER = ".jsonl"  # suffix of the files of earlier versions
HEADER = 0  # key of the first row; the entries have the keys 1, 2, ...
Entry = dict[str, Any]


class Spool:
    """The ledger of this process's training. The first entry creates it."""

    def __init__(self, root: Path, header: Entry) -> None:
        self.path = _home(root) / f"{int(time.time() * 1000)}-{os.getpid()}.ledger"
        self.header = header

    @property
    def has_entries(self) -> bool:
        return self.path.exists()

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on disk when this returns. Artifacts that it names are copied first."""
        if "artifacts" in entry:
            entry = {"artifacts": [self._copy(Path(entry["artifacts"][0])), entry["artifacts"][1]]}
        with Ledger(self.path) as ledger:
            number = len(ledger)
            ledger.add([(number, entry)] if number else [(HEADER, self.header), (HEADER + 1, entry)])

    def _copy(self, source: Path) -> str:
        folder = self.path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(dir=folder)) / source.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return str(target.relative_to(self.path.parent))

    def send(self, connection: MlflowClient, create: Callable[[Entry], str]) -> str:
        """Send all entries and remove the ledger; returns the run's id. Raises the connection's errors, and then keeps the ledger."""
        return _send(self.path, connection, create)


def deliver(connection: MlflowClient, root: Path, create: Callable[[Entry], str]) -> int:
    """Send the ledgers of ended trainings; returns their number. One process at a time delivers. Raises the connection's errors."""
    home = _home(root)
    if not any(_files(home)):
        return 0
    with alone(home / "lock", "another process delivers what MLflow missed", PATIENCE):
        return _deliver(connection, _files(home), create)


def _files(home: Path) -> list[Path]:
    """The ledgers, and the files of earlier versions: JSON lines."""
    return sorted(path for path in home.glob("*") if path.suffix in (".ledger", EARLIER))


def _deliver(connection: MlflowClient, paths: list[Path], create: Callable[[Entry], str]) -> int:
    count = 0
    for path in paths:
        entries = _entries(path)
        ended = bool(entries) and "status" in entries[-1]
        if not ended and psutil.pid_exists(int(path.stem.rsplit("-", 1)[1])):
            continue
        if not entries:  # the training was killed before its first entry was kept
            path.unlink()
            continue
        if path.suffix == EARLIER:
            path = _as_ledger(path, entries)
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
    header, *entries = _entries(path)
    if header["run_id"] is None:
        header["run_id"] = create(header)
        with Ledger(path) as ledger:
            ledger.add([(HEADER, header)])  # a retry continues this run
    run_id: str = header["run_id"]
    apply({"metrics": [values for entry in entries for values in entry.get("metrics", ())]}, connection, run_id)
    for entry in entries:
        if "artifacts" in entry:
            entry["artifacts"][0] = str(path.parent / entry["artifacts"][0])
        apply({key: value for key, value in entry.items() if key != "metrics"}, connection, run_id)
    path.unlink()
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return run_id


def apply(entry: Entry, connection: MlflowClient, run_id: str) -> None:
    """Send an entry to a run. An artifact that is no longer there is left out. Raises the connection's errors."""
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(*values) for values in entry.get("metrics", ())]
    for start in range(0, len(metrics), METRICS_A_CALL):
        connection.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])
    if "tags" in entry:
        connection.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["tags"].items()])
    if "artifacts" in entry and (path := Path(entry["artifacts"][0])).exists():
        (connection.log_artifacts if path.is_dir() else connection.log_artifact)(run_id, str(path), entry["artifacts"][1])
    if "status" in entry:
        connection.set_terminated(run_id, entry["status"], entry["time"])


def _entries(path: Path) -> list[Entry]:
    """The header and the entries. In a file of an earlier version, the last line of a killed process is incomplete and dropped."""
    if path.suffix != EARLIER:
        with Ledger(path) as ledger:
            return [entry for _, entry in ledger.items()]
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _as_ledger(path: Path, entries: list[Entry]) -> Path:
    """Write the entries of an earlier version's file to a ledger and remove the file; returns the ledger's path."""
    target = path.with_suffix(".ledger")
    with Ledger(target) as ledger:
        ledger.add(enumerate(entries))
    path.unlink()
    return target
