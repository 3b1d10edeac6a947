"""What MLflow could not be told: delivered once, with the files as they were, also when the folder it comes from is gone."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pllava.core.ledger import Ledger
from pllava.core.worktrees import Workspace
from pllava.tracking.offline_buffer import FOLDER, METRICS_A_CALL, Spool, deliver
from pllava.tracking.store import client


@pytest.fixture
def mlflow():
    """A tracking server that is slow; `files` are the texts it was given."""
    world = SimpleNamespace(made=[], files=[])

    def create(header):
        world.made.append(header)
        time.sleep(0.3)
        return "run"

    world.create = create
    world.log_artifact = lambda run_id, place, folder: world.files.append((folder, Path(place).name, Path(place).read_text()))
    world.set_terminated = lambda *arguments: None
    world.get_run = lambda run_id: SimpleNamespace(info=SimpleNamespace(status="FINISHED"))
    return world


def training(root: Path, summary: str) -> None:
    (root / "summary.md").write_text(summary)
    spool = Spool(root, {"run_id": None})
    spool.add({"artifacts": [str(root / "summary.md"), "train"]})
    spool.add({"status": "FINISHED", "time": 1})


def test_two_processes_at_once_deliver_a_training_once(tmp_path, mlflow):
    training(tmp_path, "first")
    threads = [threading.Thread(target=deliver, args=(mlflow, tmp_path, mlflow.create)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mlflow.made) == len(mlflow.files) == 1


def test_each_training_keeps_its_own_files(tmp_path, mlflow):
    """The next training writes over outputs/train."""
    training(tmp_path, "first")
    time.sleep(0.002)  # the name is the millisecond
    training(tmp_path, "second")
    assert deliver(mlflow, tmp_path, mlflow.create) == 2
    assert mlflow.files == [("train", "summary.md", "first"), ("train", "summary.md", "second")]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_a_file_of_an_earlier_version_is_delivered(tmp_path, mlflow):
    """JSON lines; a kill has torn the last one."""
    training(tmp_path, "first")
    (path,) = (tmp_path / FOLDER).glob("*.ledger")
    with Ledger(path) as ledger:
        lines = [json.dumps(entry) for _, entry in ledger.items()]
    path.with_suffix(".jsonl").write_text("\n".join(lines) + '\n{"met')
    path.unlink()
    assert deliver(mlflow, tmp_path, mlflow.create) == 1
    assert mlflow.files == [("train", "summary.md", "first")]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_a_training_killed_before_its_first_entry_leaves_nothing(tmp_path, mlflow):
    Ledger(tmp_path / FOLDER / "1-999999999.ledger").close()
    assert deliver(mlflow, tmp_path, mlflow.create) == 0
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_a_workspace_keeps_it_in_its_project(tmp_path, mlflow, monkeypatch):
    workspace = tmp_path / ".state/workspaces/a"
    workspace.mkdir(parents=True)
    with monkeypatch.context() as inside:
        inside.setattr("os.environ", Workspace("a", workspace, tmp_path, "", (), ()).environment())
        training(workspace, "first")
    shutil.rmtree(workspace)
    assert deliver(mlflow, tmp_path, mlflow.create) == 1
    assert mlflow.files == [("train", "summary.md", "first")]


def ended_process():
    """The id of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left_by(pid, *entries):
    """The ledger of a training of the process `pid`."""
    with Ledger(Path(FOLDER) / f"1-{pid}.ledger") as ledger:
        ledger.add(enumerate(({"run_id": None}, *entries)))
    return ledger.path


def left_by_an_earlier_version(pid, *entries, torn=""):
    path = Path(FOLDER) / f"1-{pid}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in ({"run_id": None}, *entries)) + torn)
    return path


@pytest.fixture
def create(in_project):
    """Makes runs in an MLflow store of files; `create.runs` are their ids."""

    def make(header):
        make.runs.append(client().create_run("0").info.run_id)
        return make.runs[-1]

    make.runs = []
    return make


LOSS = {"metrics": [["loss", 0.5, 1_700_000_000_000, 10]]}
ENDED = {"status": "FINISHED", "time": 1_700_000_000_000}


def status(run_id):
    return client().get_run(run_id).info.status


def test_a_killed_training_is_delivered_as_killed_without_its_torn_line(create):
    path = left_by_an_earlier_version(ended_process(), LOSS, torn='{"metrics": [["loss", 0.')
    assert deliver(client(), Path(), create) == 1
    assert [point.value for point in client().get_metric_history(create.runs[0], "loss")] == [0.5]
    assert status(create.runs[0]) == "KILLED"
    assert not path.exists()


def test_a_training_that_ended_is_delivered_with_its_status(create):
    left_by(ended_process(), LOSS, ENDED)
    deliver(client(), Path(), create)
    assert status(create.runs[0]) == "FINISHED"


def test_a_training_that_still_runs_is_left_alone(create):
    path = left_by(os.getpid(), LOSS)
    assert deliver(client(), Path(), create) == 0
    assert path.exists()
    assert create.runs == []


def test_a_delivery_that_broke_off_goes_on_in_the_same_run(create, monkeypatch):
    path = left_by(ended_process(), LOSS, ENDED)

    def refuse(*_, **__):
        raise ConnectionError

    with monkeypatch.context() as away, pytest.raises(ConnectionError):
        away.setattr(type(client()), "log_batch", refuse)
        deliver(client(), Path(), create)
    assert path.exists()
    assert deliver(client(), Path(), create) == 1
    assert len(create.runs) == 1
    assert status(create.runs[0]) == "FINISHED"


def test_more_metrics_than_a_call_takes_are_all_delivered(create):
    number = 2 * METRICS_A_CALL + 1
    left_by(ended_process(), *({"metrics": [["loss", 1.0, 1_700_000_000_000 + step, step]]} for step in range(number)), ENDED)
    deliver(client(), Path(), create)
    assert [point.step for point in client().get_metric_history(create.runs[0], "loss")] == list(range(number))
