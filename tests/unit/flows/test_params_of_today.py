"""A flow goes by params.yaml as it is when it runs: a form is as old as the last `make up`, and a person may have made a mistake since."""

import importlib
import logging
import shutil
from pathlib import Path

import pytest

import flows
from flows import ROOT, evaluate, form, pipeline


@pytest.fixture
def params(tmp_path, monkeypatch):
    for module in (flows, evaluate, pipeline):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(pipeline, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.chdir(tmp_path)
    yield Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    monkeypatch.undo()
    importlib.reload(form)


def test_a_benchmark_that_is_gone_is_not_said_to_be_measured(params):
    state = evaluate.evaluate.fn("msvd_qa")
    assert state.is_failed()
    assert "no 'msvd_qa'" in state.message
    assert "mvbench" in state.message


def test_a_wrong_key_is_named_not_stumbled_over(params):
    params.write_text(params.read_text().replace("evaluate:", "evalute:"))
    importlib.reload(form)
    for run in (pipeline.pipeline, evaluate.evaluate):
        state = run.fn()
        assert state.is_failed()
        assert "did you mean 'evaluate'?" in state.message
