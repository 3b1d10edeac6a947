"""Names of project folders: what SQLite's addresses or supervisord cannot have is said, with the folder, before anything is made."""

from pathlib import Path

import pytest

from pllava.cli.operate import _project
from pllava.core.errors import PllavaError
from pllava.services.stack import Stack
from pllava.services.supervisor import write_settings
from pllava.services.up import up
from pllava.tracking.store import client, experiment_id, setup


@pytest.mark.parametrize("name", ["My%20Project", "what?"])
def test_a_folder_that_no_database_can_have(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "params.yaml").touch()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PllavaError, match="Move the project"):
        setup()
    assert [path.name for path in tmp_path.rglob("*")] == [name, "params.yaml"]


def test_a_folder_whose_path_is_too_long_for_a_database(tmp_path, monkeypatch):
    folder = tmp_path.joinpath(*["l" * 100] * 4)
    folder.mkdir(parents=True)
    (folder / "params.yaml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PllavaError, match="Move the project to a folder with a shorter"):
        setup()
    assert not (folder / ".state").exists()


@pytest.mark.parametrize("length", [0, 400])
def test_records_in_a_folder_of_any_other_name(tmp_path, monkeypatch, length):
    """Addresses of files and databases escape some of these characters; runs and their files come back all the same."""
    folder = tmp_path / "a#b é &=+;'x"
    while len(str(folder).encode()) < length:
        folder /= "l" * min(100, max(1, length - len(str(folder).encode()) - 1))
    folder.mkdir(parents=True)
    (folder / "params.yaml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connection = client()
    run = connection.create_run(experiment_id(connection, "one"))
    connection.log_text(run.info.run_id, "hello", "texts/a.txt")
    assert Path(connection.download_artifacts(run.info.run_id, "texts/a.txt", str(tmp_path))).read_text() == "hello"
    assert len(list((folder / ".state/mlflow/artifacts/one").rglob("a.txt"))) == 1
    assert [path.name for path in tmp_path.iterdir()].count(folder.relative_to(tmp_path).parts[0]) == 1


@pytest.mark.parametrize("name", ["100 %", "this ;that", 'the "best"'])
def test_a_folder_that_supervisord_cannot_have(tmp_path, name):
    with pytest.raises(PllavaError, match="move the project"):
        write_settings(Stack(tmp_path / name, 5000, 4200, 7860, 5010))
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["two words", "été", "a;b", "it's"])
def test_a_folder_of_any_other_name(tmp_path, name):
    assert f"directory = {tmp_path / name}" in write_settings(Stack(tmp_path / name, 5000, 4200, 7860, 5010)).read_text()


def test_services_are_those_of_the_project_from_any_folder_in_it(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    with pytest.raises(PllavaError, match=r"params\.yaml is not there"):
        up(Path(), print)
    assert not (tmp_path / "docs/.state").exists()
    (tmp_path / "params.yaml").touch()
    assert _project() == Path.cwd() == tmp_path
