"""One MLflow run a training, opened by `training_run`; evaluation and report log into the same run later.

A run is found again by the adapter's hash, so it makes no difference whether the stages ran just now, yesterday, or were restored by DVC.
Tracking never stops work: when MLflow is away, that is said once, the work goes on, and what a training had to say is kept for later.
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

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json
from pllava.core.params import Params
from pllava.tracking import provenance
from pllava.tracking.offline_buffer import FOLDER, Spool, deliver
from pllava.tracking.store import client, experiment_id, project_root, setup

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
FLUSH_SECONDS = 5.0  # curves are seen while they grow
RETRY_SECONDS = 30.0  # before the first new try at a store that is away; doubles with each


class Run:
    """A run being written. `connection` None: MLflow is away.

    With a `spool` (a training) nothing is lost then: it is kept on disk, sending is tried again ever more rarely, and what is left is
    delivered by a later stage. Without one (later stages) every method does nothing while MLflow is away.
    """

    def __init__(self, connection: MlflowClient | None, run_id: str | None, spool: Spool | None = None, known_step: int = -1) -> None:
        self.connection = connection
        self.run_id = run_id
        self.spool = spool
        self.known_step = known_step  # of a run that goes on: steps up to here are in it already
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = time.monotonic()
        self._wait = RETRY_SECONDS

    @property
    def active(self) -> bool:
        return self.connection is not None

    def log(self, step: int, **metrics: float) -> None:
        """Remember numbers of one step; they are sent in batches."""
        self.log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """As `log`, for names that are not identifiers ("mvbench/adapted/average"). NaN is left out: MLflow would store it as 0."""
        if step <= self.known_step or (self.connection is None and self.spool is None):
            return
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]
        if len(self._waiting) >= METRICS_A_BATCH or time.monotonic() - self._sent > FLUSH_SECONDS:
            self.flush()

    def log_artifacts(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or what is in a folder, to the run."""

        def send(connection: MlflowClient, run_id: str) -> None:
            (connection.log_artifacts if Path(path).is_dir() else connection.log_artifact)(run_id, str(path), folder)

        self._guard(send, {"artifacts": [str(Path(path).absolute()), folder]})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._guard(
            lambda connection, run_id: connection.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()]),
            {"tags": dict(tags)},
        )

    def end(self, status: str) -> None:
        self.flush()
        now = int(time.time() * 1000)
        self._guard(lambda connection, run_id: connection.set_terminated(run_id, status, now), {"status": status, "time": now})

    def flush(self) -> None:
        """Send what is waiting."""
        self._sent = time.monotonic()
        if not self._waiting:
            return
        from mlflow.entities import Metric

        batch, self._waiting = self._waiting, []
        self._guard(
            lambda connection, run_id: connection.log_batch(
                run_id, metrics=[Metric(name, value, when, step) for name, value, when, step in batch]
            ),
            {"metrics": [list(entry) for entry in batch]},
        )

    def _guard(self, send: Any, entry: dict[str, Any]) -> None:
        """Do one call to MLflow; one that fails is reported, kept, and tried again later."""
        from mlflow.exceptions import MlflowException

        if self.connection is None and self.spool is not None:
            self._try_again()
        if self.connection is not None:
            try:
                send(self.connection, self.run_id)
            except (MlflowException, OSError) as error:
                say_away(error, self.spool is not None)
                self.connection, self._tried = None, time.monotonic()
            else:
                return
        if self.spool is not None:
            self.spool.add(entry)

    def _try_again(self) -> None:
        """See whether MLflow answers now; first tell it what was kept, so that the run is in order."""
        from mlflow.exceptions import MlflowException

        if self.spool is None or time.monotonic() - self._tried < self._wait:
            return
        try:
            connection = client()
            if self.spool.holds_something:
                self.run_id = self.spool.send(connection, lambda header: _create_from(connection, header))
                self.spool.header["run_id"] = self.run_id
            elif self.run_id is None:
                return
        except (PllavaError, MlflowException, OSError):
            self._tried, self._wait = time.monotonic(), self._wait * 2
            return
        self.connection, self._wait = connection, RETRY_SECONDS
        log.warning("MLflow answers again: what was kept is delivered")

    _tried = float("-inf")


@contextmanager
def training_run(params: Params, resume: bool = False) -> Iterator[Run]:
    """A run with everything known before the first step; the block logs curves with `run.log(step, loss=...)`.

    resume: go on in the run of the training that was stopped. When the block ends the adapter folder it wrote is named in the run; when
    it raises, the run is marked failed, or killed.
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
    """The run of the adapter in outputs/train, to log more into it. A run is made from the recorded history when there is none."""
    try:
        connection = client()
        found = adapter_run(connection, params)
    except PllavaError as error:
        say_away(error)
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
    _deliver(connection, root)
    experiment = experiment_id(connection, params.registry.experiment)
    query = f"tags.adapter_sha256 = '{digest}' AND attributes.status = 'FINISHED'"
    for run in connection.search_runs([experiment], query, max_results=100, order_by=["attributes.start_time DESC"]):
        if "reproduces" not in run.data.tags:  # `pllava reproduce` made the same bytes again, from what this run recorded
            return run
    restored = Run(connection, _create(connection, root, params))
    _replay(restored, root / HISTORY)
    restored.set_tags({"adapter_sha256": digest, "restored": "true"})
    restored.end("FINISHED")
    return connection.get_run(restored.run_id or "")


def _open(root: Path, params: Params, resume: bool) -> Run:
    header: dict[str, Any] = {
        "run_id": None,
        "params": params.model_dump(mode="json"),
        "tags": provenance.code_tags(root) | provenance.corpus_tags(root, params),
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
        say_away(error, True)
        (root / RUN_FILE).unlink(missing_ok=True)  # another training's: this one must not go on in it
        run = Run(None, None)
        run._tried = time.monotonic()
    run.spool = spool
    if run.run_id:
        header["run_id"] = run.run_id
        write_json(root / RUN_FILE, {"run_id": run.run_id})
    return run


def _reopen(connection: MlflowClient, root: Path) -> Run | None:
    """The run of the training that was stopped; None if there is none in this store."""
    from mlflow.exceptions import MlflowException

    if not (root / RUN_FILE).is_file():
        return None
    try:
        found = connection.get_run(read_json(root / RUN_FILE)["run_id"])
        if found.info.status == "FINISHED":
            return None
        connection.update_run(found.info.run_id, status="RUNNING")
        steps = [entry.step for name in ("loss", "val_loss") for entry in connection.get_metric_history(found.info.run_id, name)]
    except MlflowException:
        return None
    return Run(connection, found.info.run_id, known_step=max(steps, default=-1))


def _deliver(connection: MlflowClient, root: Path) -> None:
    """What earlier trainings could not say. A store that fails at it is away."""
    from mlflow.exceptions import MlflowException

    try:
        deliver(connection, root, lambda header: _create_from(connection, header))
    except (MlflowException, OSError) as error:
        raise PllavaError(f"MLflow at {connection.tracking_uri} does not take what was kept for it: {error}") from None


def _create_from(connection: MlflowClient, header: dict[str, Any]) -> str:
    """The run as it would have been made then; the folder may hold other data by now."""
    params = Params.model_validate(header["params"])
    return _create(connection, project_root(), params, header["tags"], header["started"], header.get("data"))


def _close_abandoned(connection: MlflowClient, root: Path) -> None:
    """The run of a training that was killed before it could say so: it would look as if it were still going on."""
    from mlflow.exceptions import MlflowException

    if not (root / RUN_FILE).is_file():
        return
    with suppress(MlflowException):  # of another store
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
    """A run that holds all settings, the code, the packages and the data it starts from."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    # Not a name of MLflow's making: those are drawn from the generator that training has seeded, so all would be the same.
    when = datetime.now() if started is None else datetime.fromtimestamp(started / 1000)
    name = f"{Path(params.model.base).name}, {when:%Y-%m-%d %H:%M:%S}"
    experiment = experiment_id(connection, params.registry.experiment)
    tags = (tags or provenance.code_tags(root) | provenance.corpus_tags(root, params)) | {"params_sha256": provenance.params_sha256(params)}
    run = connection.create_run(experiment, start_time=started, tags=tags, run_name=name)
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


def _replay(run: Run, history: Path) -> None:
    """Log the curves of a history file: one JSON object a line, with `step`."""
    if not history.is_file():
        return
    for line in history.read_text().splitlines():
        record = json.loads(line)
        run.log_metrics({key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}, record["step"])


def say_away(error: Exception, kept: bool = False) -> None:
    where = f"what it should have got is kept in {FOLDER} and delivered when it answers" if kept else f"its history is in {HISTORY}"
    log.warning("not tracked: %s\nThe work goes on; %s, by `pllava register` at the latest", error, where)
