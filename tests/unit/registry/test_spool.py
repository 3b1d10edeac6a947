"""What MLflow could not be told: delivered once, with the files as they were, also when the folder it comes from is gone."""

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pllava.core.ledger import Ledger
from pllava.core.worktrees import Workspace
from pllava.tracking.offline_buffer import FOLDER, Spool, deliver


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
