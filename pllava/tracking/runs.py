"""One MLflow run for each training, opened by `training_run`. Evaluation and report log into the same run later (`later_stage`).

Later stages find the run by the adapter's hash, so it does not matter when the stages ran, or whether DVC restored their outputs.
Tracking never stops the work. While MLflow does not answer, one warning is logged, and the records of a training are kept on disk.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.core.errors import PllavaError, without_passwords
from pllava.core.files import read_json, write_json
from pllava.core.params import Params
from pllava.tracking import names, provenance
from pllava.tracking.offline_buffer import FOLDER, METRICS_A_CALL, Spool, apply, deliver
from pllava.tracking.store import client, experiment_id, project_root, setup

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = ["Run", "adapter_digest", "adapter_run", "later_stage", "setup", "training_run"]

log = logging.getLogger(__name__)
ADAPTER = Path("outputs/train/adapter")  # as in artifacts/training.py, a room of the same floor
HISTORY = Path("outputs/train/history.jsonl")
RUN_FILE = Path(".state/run.json")
PARAMS = "lineage/params.yaml"  # artifact: the settings of the run, for `pllava reproduce`
FLUSH_SECONDS = 5.0  # between two sends of metrics, so that the curves grow during training
RETRY_SECONDS = 30.0  # from a failed call to the first retry; doubles with each failed retry


class Run:
    """An open run. `connection` is None while MLflow does not answer.

    With a `spool` (a training), records are then kept on disk. Sending is retried at growing intervals, and a later stage delivers the
    remaining records. Without a `spool` (later stages), every method does nothing while MLflow does not answer.
    """

    def __init__(self, connection: MlflowClient | None, run_id: str | None, spool: Spool | None = None, known_step: int = -1) -> None:
        self.connection = connection
        self.run_id = run_id
        self.spool = spool
        self.known_step = known_step  # last step that a resumed run has logged; earlier steps are not logged again
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = time.monotonic()
        self._wait = RETRY_SECONDS

    def log(self, step: int, **metrics: float) -> None:
        """Log numbers of one step. They are sent in batches."""
        self.log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """As `log`, for names that are not identifiers ("mvbench/adapted/average"). NaN is not logged: MLflow would store it as 0."""
        if step <= self.known_step or (self.connection is None and self.spool is None):
            return
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]
        if len(self._waiting) >= METRICS_A_CALL or time.monotonic() - self._sent > FLUSH_SECONDS:
            self.flush()

    def log_artifacts(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or the files of a folder, to the run."""
        self._guard({"artifacts": [str(Path(path).absolute()), folder]})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._guard({"tags": dict(tags)})

    def end(self, status: str) -> None:
        """Send waiting metrics and set the run's status: FINISHED, FAILED or KILLED."""
        self.flush()
        self._guard({"status": status, "time": int(time.time() * 1000)})

    def flush(self) -> None:
        """Send the waiting metrics."""
        self._sent = time.monotonic()
        if self._waiting:
            batch, self._waiting = self._waiting, []
            self._guard({"metrics": [list(values) for values in batch]})

    def _guard(self, entry: dict[str, Any]) -> None:
        """Send an entry to MLflow. When it fails, log a warning and keep the entry in the spool, if there is one."""
        from mlflow.exceptions import MlflowException

        if self.connection is None and self.spool is not None:
            self._reconnect()
        if self.connection is not None:
            try:
                apply(entry, self.connection, self.run_id or "")
            except (MlflowException, OSError) as error:
                warn_not_tracked(error, self.spool is not None)
                self.connection, self._last_try = None, time.monotonic()
            else:
                return
        if self.spool is not None:
            self.spool.add(entry)

    def _reconnect(self) -> None:
        """Connect again once the waiting time is over. Entries of the spool are sent first, so that the run stays in order."""
        from mlflow.exceptions import MlflowException

        if self.spool is None or time.monotonic() - self._last_try < self._wait:
            return
        try:
            connection = client()
            if self.spool.has_entries:
                self.run_id = self.spool.send(connection, lambda header: _create_from(connection, header))
                self.spool.header["run_id"] = self.run_id
            elif self.run_id is None:
                return
        except (PllavaError, MlflowException, OSError):
            self._last_try, self._wait = time.monotonic(), self._wait * 2
            return
        self.connection, self._wait = connection, RETRY_SECONDS
        log.warning("MLflow answers again: what was kept is delivered")

    _last_try = float("-inf")


@contextmanager
def training_run(params: Params, resume: bool = False) -> Iterator[Run]:
    """Open a run with the settings, code version and data hashes. The block logs curves with `run.log(step, loss=...)`.

    resume: continue the run of the stopped training. When the block ends, the run gets the hash of the adapter. When the block raises, the
    run is marked FAILED, or KILLED on an interrupt.
    """
    root = project_root()
    run = _open(root, params, resume)
    try:
        yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    if digest := adapter_digest(root):
        run.set_tags({"adapter_sha256": digest})
    run.end("FINISHED")


@contextmanager
def later_stage(params: Params) -> Iterator[Run]:
    """Open the run of the adapter in outputs/train to log more. Without such a run, one is created from the training history."""
    try:
        connection = client()
        mlflow_run = adapter_run(connection, params)
    except PllavaError as error:
        warn_not_tracked(error)
        yield Run(None, None)
        return
    run = Run(connection, mlflow_run.info.run_id)
    yield run
    run.flush()


def adapter_digest(root: Path) -> str | None:
    """`adapter_sha256` in the manifest of the trained adapter; None without a manifest."""
    manifest = root / ADAPTER / "manifest.json"
    return read_json(manifest)["adapter_sha256"] if manifest.is_file() else None


def adapter_run(connection: MlflowClient, params: Params) -> MlflowRun:
    """The newest run that made the adapter in outputs/train.

    Without one (DVC restored an adapter that was trained elsewhere), a run is created from the history, with the tag `restored`.
    Raises PllavaError when there is no adapter, or when MLflow does not answer.
    """
    root = project_root()
    digest = adapter_digest(root)
    if digest is None:
        raise PllavaError(f"{ADAPTER}/manifest.json is not there: no adapter is trained yet. Run: dvc repro train")
    _deliver(connection, root)
    if (run := run_of(connection, params, digest)) is not None:
        return run
    restored = Run(connection, _create(connection, root, params))
    _replay(restored, root / HISTORY)
    restored.set_tags({"adapter_sha256": digest, "restored": "true"})
    restored.end("FINISHED")
    return connection.get_run(restored.run_id or "")


def run_of(connection: MlflowClient, params: Params, adapter_sha256: str) -> MlflowRun | None:
    """The newest run that made the adapter; None without one. Runs of `pllava reproduce` have the same adapter and do not count."""
    query = f"tags.adapter_sha256 = '{adapter_sha256}' AND attributes.status = 'FINISHED'"
    experiment = experiment_id(connection, params.registry.experiment)
    runs = connection.search_runs([experiment], query, max_results=100, order_by=["attributes.start_time DESC"])
    return next((run for run in runs if "reproduces" not in run.data.tags), None)


def _open(root: Path, params: Params, resume: bool) -> Run:
    """A new run, or the resumed one; a run that only writes to the spool when MLflow does not answer."""
    header: dict[str, Any] = {
        "run_id": None,
        "params": params.model_dump(mode="json"),
        "tags": _tags(root, params),
        "data": provenance.dataset_digests(root, params),
        "started": int(time.time() * 1000),
    }
    spool = Spool(root, header)
    try:
        connection = client()
        _deliver(connection, root)
        run = _reopen(connection, root) if resume else None
        if run is None:
            _close_abandoned(connection, root)
            run = Run(connection, _create_from(connection, header))
    except PllavaError as error:
        warn_not_tracked(error, True)
        (root / RUN_FILE).unlink(missing_ok=True)  # names the run of an earlier training, which a resume must not continue
        run = Run(None, None)
        run._last_try = time.monotonic()
    run.spool = spool
    if run.run_id:
        header["run_id"] = run.run_id
        write_json(root / RUN_FILE, {"run_id": run.run_id})
    return run


def _reopen(connection: MlflowClient, root: Path) -> Run | None:
    """The run of the stopped training; None when this store has no such run, or when the run is finished."""
    from mlflow.exceptions import MlflowException

    if not (root / RUN_FILE).is_file():
        return None
    try:
        run = connection.get_run(read_json(root / RUN_FILE)["run_id"])
        if run.info.status == "FINISHED":
            return None
        connection.update_run(run.info.run_id, status="RUNNING")
        steps = [entry.step for name in ("loss", "val_loss") for entry in connection.get_metric_history(run.info.run_id, name)]
    except MlflowException:
        return None
    return Run(connection, run.info.run_id, known_step=max(steps, default=-1))


def _deliver(connection: MlflowClient, root: Path) -> None:
    """Send the kept records of earlier trainings. Raises PllavaError when the store fails."""
    from mlflow.exceptions import MlflowException

    try:
        deliver(connection, root, lambda header: _create_from(connection, header))
    except (MlflowException, OSError) as error:
        raise PllavaError(f"MLflow at {connection.tracking_uri} does not take what was kept for it: {error}") from None


def _create_from(connection: MlflowClient, header: dict[str, Any]) -> str:
    """Create the run of a spool's header, with the tags and data hashes of that time; the project folder may have changed since."""
    params = Params.model_validate(header["params"])
    return _create(connection, project_root(), params, header["tags"], header["started"], header.get("data"))


def _close_abandoned(connection: MlflowClient, root: Path) -> None:
    """Mark the run of a killed training as KILLED: a killed process leaves its run RUNNING."""
    from mlflow.exceptions import MlflowException

    if not (root / RUN_FILE).is_file():
        return
    with suppress(MlflowException):  # the run is in another store
        last = connection.get_run(read_json(root / RUN_FILE)["run_id"])
        if last.info.status == "RUNNING":
            connection.set_terminated(last.info.run_id, "KILLED")


def _create(
    connection: MlflowClient,
    root: Path,
    params: Params,
    tags: dict[str, str] | None = None,
    started: int | None = None,
    data: dict[str, tuple[str, str]] | None = None,
) -> str:
    """Create a run with all settings, the tags of code and corpora, and the data hashes; returns its id.

    tags, started (milliseconds), data: those of a kept training; default: those of the project folder now.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    experiment = experiment_id(connection, params.registry.experiment)
    tags = (tags or _tags(root, params)) | {"params_sha256": provenance.params_sha256(params)}
    if names.NAME not in tags:  # kept by an earlier version of this project
        tags |= names.describe(root, params, tags)
    run = connection.create_run(experiment, start_time=started, tags=tags, run_name=tags[names.NAME])
    run_id = run.info.run_id
    connection.log_text(run_id, yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), PARAMS)
    settings = [Param(key, value) for key, value in provenance.flatten(params.model_dump(mode="json")).items()]
    for start in range(0, len(settings), 100):  # MLflow's limit a call
        connection.log_batch(run_id, params=settings[start : start + 100])
    inputs = [
        DatasetInput(Dataset(name, digest, "local", path), [InputTag("mlflow.data.context", "training")])
        for name, (path, digest) in (provenance.dataset_digests(root, params) if data is None else data).items()
    ]
    connection.log_inputs(run_id, inputs)
    return run_id


def _tags(root: Path, params: Params) -> dict[str, str]:
    """Tags of a new run: code, corpora, name and description."""
    tags = provenance.code_tags(root) | provenance.corpus_tags(root, params)
    return tags | names.describe(root, params, tags)


def _replay(run: Run, history: Path) -> None:
    """Log the curves of a history file: one JSON object a line, with `step`."""
    for line in history.read_text().splitlines() if history.is_file() else []:
        record = json.loads(line)
        run.log_metrics({key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}, record["step"])


def warn_not_tracked(error: Exception, kept: bool = False) -> None:
    """Log a warning that MLflow does not answer. kept: the records are in the spool."""
    where = f"what it should have got is kept in {FOLDER} and delivered when it answers" if kept else f"its history is in {HISTORY}"
    log.warning("not tracked: %s\nThe work goes on; %s, by `pllava register` at the latest", without_passwords(str(error)), where)
