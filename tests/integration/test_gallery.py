"""The gallery opens the results that a training's MLflow run holds."""

import shutil

import pytest
from gallery_results import result, write

from pllava.core.errors import PllavaError
from pllava.registry.result_sources import find
from pllava.tracking import store

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path, monkeypatch, mlflow_template):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(mlflow_template, tmp_path / store.MLFLOW_HOME)
    return tmp_path


def test_results_of_a_run_are_those_that_were_logged(project):
    connection = store.client()
    run = connection.create_run(store.experiment_id(connection, "pllava")).info.run_id
    results = write(project / "results", [result(n, "adapted", n % 2 == 0) for n in range(4)])
    connection.log_artifacts(run, str(results / "mvbench"), "evaluate/mvbench")
    files = find([f"mlflow-run:{run}", f"here={results}"])
    assert [(file.source, file.benchmark) for file in files] == [(f"run {run[:8]}", "mvbench"), ("here", "mvbench")]
    assert files[0].path.read_bytes() == files[1].path.read_bytes()
    assert files[0].path.is_relative_to(project / ".state")


def test_a_run_without_results_and_one_that_is_not_there_say_so(project):
    connection = store.client()
    run = connection.create_run(store.experiment_id(connection, "pllava")).info.run_id
    with pytest.raises(PllavaError, match="has no results"):
        find([f"mlflow-run:{run}"])
    with pytest.raises(PllavaError, match="not found"):
        find(["mlflow-run:" + 32 * "0"])
