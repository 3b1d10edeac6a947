"""One MLflow run a training, opened by `training_run`; evaluation and report log into the same run later.

A run is found again by the adapter's hash, so it makes no difference whether the stages ran just now, yesterday, or were restored by DVC.
Tracking never stops work: when MLflow is away, that is said once and the work goes on.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.errors import PllavaError
from pllava.files import read_json, write_json
from pllava.params import Params
from pllava.registry import provenance
from pllava.registry.store import client, experiment_id, project_root, setup

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = ["Run", "adapter_digest", "adapter_run", "later_stage", "setup", "training_run"]

log = logging.getLogger(__name__)
ADAPTER = Path("outputs/train/adapter")
HISTORY = Path("outputs/train/history.jsonl")
RUN_FILE = Path(".state/run.json")
PARAMS = "lineage/params.yaml"  # artifact: the settings of the run, to run it again
METRICS_A_BATCH = 200  # a call costs ~50 ms whatever its size


class Run:
    """A run being written. `connection` None: MLflow is away, and every method does nothing."""

    def __init__(self, connection: MlflowClient | None, run_id: str | None) -> None:
        self.connection = connection
        self.run_id = run_id
        self._waiting: list[tuple[str, float, int, int]] = []

    @property
    def active(self) -> bool:
        return self.connection is not None

    def log(self, step: int, **metrics: float) -> None:
        """Remember numbers of one step; they are sent in batches."""
        self.log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """As `log`, for names that are not identifiers ("mvbench/adapted/average"). NaN is left out: MLflow would store it as 0."""
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]
        if len(self._waiting) >= METRICS_A_BATCH:
            self.flush()

    def log_artifacts(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or what is in a folder, to the run."""

        def send(connection: MlflowClient, run_id: str) -> None:
            (connection.log_artifacts if Path(path).is_dir() else connection.log_artifact)(run_id, str(path), folder)

        self._guard(send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._guard(lambda connection, run_id: connection.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()]))

    def flush(self) -> None:
        """Send what is waiting."""
        if not self._waiting:
            return
        from mlflow.entities import Metric

        batch = [Metric(name, value, when, step) for name, value, when, step in self._waiting]
        self._waiting.clear()
        self._guard(lambda connection, run_id: connection.log_batch(run_id, metrics=batch))

    def _guard(self, send: Any) -> None:
        """Do one call to MLflow; the first that fails is reported and the last that is tried."""
        if self.connection is None:
            return
        from mlflow.exceptions import MlflowException

        try:
            send(self.connection, self.run_id)
        except (MlflowException, OSError) as error:
            _say_away(error)
            self.connection = None


@contextmanager
def training_run(params: Params) -> Iterator[Run]:
    """A new run with everything known before the first step; the block logs curves with `run.log(step, loss=...)`.

    When the block ends the adapter folder it wrote is named in the run; when it raises, the run is marked failed, or killed.
    """
    root = project_root()
    run = _open_new(root, params)
    try:
        yield run
    except BaseException as error:
        _finish(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    digest = adapter_digest(root)
    if run.active and digest:
        run.set_tags({"adapter_sha256": digest})
    _finish(run, "FINISHED")


@contextmanager
def later_stage(params: Params) -> Iterator[Run]:
    """The run of the adapter in outputs/train, to log more into it. A run is made from the recorded history when there is none."""
    try:
        connection = client()
        found = adapter_run(connection, params)
    except PllavaError as error:
        _say_away(error)
        yield Run(None, None)
        return
    run = Run(connection, found.info.run_id)
    yield run
    run.flush()


def adapter_digest(root: Path) -> str | None:
    """adapter_sha256 of the trained adapter's manifest, None when there is none."""
    manifest = root / ADAPTER / "manifest.json"
    return read_json(manifest)["adapter_sha256"] if manifest.is_file() else None


def adapter_run(connection: MlflowClient, params: Params) -> MlflowRun:
    """The newest run that made the adapter in outputs/train.

    DVC may have restored an adapter that was trained elsewhere: then a run is made from its history, tagged `restored`.
    """
    root = project_root()
    digest = adapter_digest(root)
    if digest is None:
        raise PllavaError(f"{ADAPTER}/manifest.json is not there: no adapter is trained yet. Run: dvc repro train")
    experiment = experiment_id(connection, params.registry.experiment)
    query = f"tags.adapter_sha256 = '{digest}' AND attributes.status = 'FINISHED'"
    for run in connection.search_runs([experiment], query, max_results=100, order_by=["attributes.start_time DESC"]):
        if "reproduces" not in run.data.tags:  # `pllava reproduce` made the same bytes again, from what this run recorded
            return run
    restored = Run(connection, _create(connection, root, params))
    _replay(restored, root / HISTORY)
    restored.set_tags({"adapter_sha256": digest, "restored": "true"})
    _finish(restored, "FINISHED")
    return connection.get_run(restored.run_id or "")


def _open_new(root: Path, params: Params) -> Run:
    try:
        connection = client()
        _close_abandoned(connection, root)
        run = Run(connection, _create(connection, root, params))
    except PllavaError as error:
        _say_away(error)
        return Run(None, None)
    write_json(root / RUN_FILE, {"run_id": run.run_id})
    return run


def _close_abandoned(connection: MlflowClient, root: Path) -> None:
    """The run of a training that was killed before it could say so: it would look as if it were still going on."""
    from mlflow.exceptions import MlflowException

    if not (root / RUN_FILE).is_file():
        return
    with suppress(MlflowException):  # of another store
        last = connection.get_run(read_json(root / RUN_FILE)["run_id"])
        if last.info.status == "RUNNING":
            connection.set_terminated(last.info.run_id, "KILLED")


def _create(connection: MlflowClient, root: Path, params: Params) -> str:
    """A run that holds all settings, the code, the packages and the data it starts from."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    # Not a name of MLflow's making: those are drawn from the generator that training has seeded, so all would be the same.
    name = f"{Path(params.model.base).name}, {datetime.now():%Y-%m-%d %H:%M:%S}"
    tags = provenance.code_tags(root) | {"params_sha256": provenance.params_sha256(params)}
    run = connection.create_run(experiment_id(connection, params.registry.experiment), tags=tags, run_name=name)
    run_id = run.info.run_id
    connection.log_text(run_id, yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), PARAMS)
    settings = [Param(key, value) for key, value in provenance.flatten(params.model_dump(mode="json")).items()]
    for start in range(0, len(settings), 100):  # MLflow's limit a call
        connection.log_batch(run_id, params=settings[start : start + 100])
    inputs = [
        DatasetInput(Dataset(name, digest, "local", path), [InputTag("mlflow.data.context", "training")])
        for name, (path, digest) in provenance.dataset_digests(root, params).items()
    ]
    connection.log_inputs(run_id, inputs)
    return run_id


def _replay(run: Run, history: Path) -> None:
    """Log the curves of a history file: one JSON object a line, with `step`."""
    if not history.is_file():
        return
    for line in history.read_text().splitlines():
        record = json.loads(line)
        run.log_metrics({key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}, record["step"])


def _finish(run: Run, status: str) -> None:
    run.flush()
    run._guard(lambda connection, run_id: connection.set_terminated(run_id, status))


def _say_away(error: Exception) -> None:
    log.warning("not tracked: %s\nThe work goes on; its history is in %s and is recorded at the next `pllava register`", error, HISTORY)
