"""Any model is scored, whether or not something was trained here, and the evaluation's own outputs are left alone."""

import json
import shutil
from pathlib import Path

import pytest

from pllava.errors import PllavaError
from pllava.evaluate.compare import compare
from pllava.evaluate.measure import measure
from pllava.params import load_params


@pytest.fixture
def project(evaluation_project, monkeypatch, tmp_path):
    """As the evaluation's project, with nothing trained in it: the adapter lies elsewhere."""
    root = shutil.copytree(evaluation_project, tmp_path / "project")
    shutil.move(root / "outputs/train/adapter", root / "theirs")
    monkeypatch.chdir(root)
    return root


def test_an_adapter_and_the_base_are_scored_and_can_be_compared(project):
    params = load_params()
    (adapter,) = measure(params, "theirs", ["mvbench"])
    (base,) = measure(params, "base", ["mvbench"])
    assert adapter == Path("outputs/measured/theirs/mvbench/metrics.json")
    found = json.loads(adapter.read_text())
    assert list(found["models"]) == ["adapted"] and found["provenance"]["adapter_sha256"] and found["provenance"]["num_frames"] == 4
    plain = json.loads(base.read_text())["provenance"]
    assert plain["adapter_sha256"] is None and plain["base_sha256"] == found["provenance"]["base_sha256"]
    assert plain["data_sha256"] == found["provenance"]["data_sha256"]
    assert compare(adapter.parent, base.parent).tasks
    assert not Path("metrics").exists() and not Path("outputs/evaluate").exists()


def test_strength_without_training_and_none_is_the_trained_one(project):
    params = load_params()
    answers = {}
    for alpha in (None, 8.0, 0.0):  # 8: as it was trained
        measure(params, "theirs", ["mvbench"], lora_alpha=alpha, output=Path(f"at-{alpha}"))
        answers[alpha] = Path(f"at-{alpha}/mvbench/results.jsonl").read_text()
    assert answers[None] == answers[8.0] != answers[0.0]


def test_a_model_that_is_not_there_is_said_at_once(project):
    with pytest.raises(PllavaError, match="no such folder"):
        measure(load_params(), "./nothing", ["mvbench"])
