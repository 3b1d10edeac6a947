"""Any model is scored, whether or not something was trained here, and the evaluation's own outputs are left alone."""

import json
import shutil
from pathlib import Path

import pytest

from pllava.benchmarks import mvbench
from pllava.core.errors import PllavaError
from pllava.core.params import load_params
from pllava.registry.measure import measure
from pllava.stages.evaluate.compare import compare

MVBENCH = Path(mvbench.__file__)


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
    assert list(found["models"]) == ["adapted"]
    assert found["provenance"]["adapter_sha256"]
    assert found["provenance"]["num_frames"] == 4
    plain = json.loads(base.read_text())["provenance"]
    assert plain["adapter_sha256"] is None
    assert plain["base_sha256"] == found["provenance"]["base_sha256"]
    assert plain["data_sha256"] == found["provenance"]["data_sha256"]
    assert compare(adapter.parent, base.parent).tasks
    assert not Path("metrics").exists()
    assert not Path("outputs/evaluate").exists()


def test_strength_without_training_and_none_is_the_trained_one(project):
    params = load_params()
    answers = {}
    for alpha in (None, 8.0, 0.0):  # 8: as it was trained
        measure(params, "theirs", ["mvbench"], lora_alpha=alpha, output=Path(f"at-{alpha}"))
        answers[alpha] = Path(f"at-{alpha}/mvbench/results.jsonl").read_text()
    assert answers[None] == answers[8.0] != answers[0.0]


def test_an_adapter_that_stores_no_alpha_has_32_on_every_benchmark_that_names_none(project):
    """As published adapters are; the benchmark before it has a strength of its own."""
    file = project / "theirs/adapter_config.json"
    (adapter := project / "published").mkdir()
    from safetensors.torch import load_file, save_file

    from pllava.model.adapter_names import published_adapter_name

    weights = load_file(project / "theirs/adapter_model.safetensors")
    save_file({published_adapter_name(key): value for key, value in weights.items()}, adapter / "model.safetensors")
    assert json.loads(file.read_text())["lora_alpha"] == 8
    params = load_params()
    benchmark = params.evaluate.benchmarks["mvbench"]
    both = {"first": benchmark.model_copy(update={"lora_alpha": 4.0, "source": MVBENCH}), "mvbench": benchmark}
    params.evaluate.benchmarks.update(both)
    first, second = (json.loads(p.read_text()) for p in measure(params, "base", ["first", "mvbench"], adapter="published"))
    assert (first["provenance"]["lora_alpha"], second["provenance"]["lora_alpha"]) == (4, 32)
    measure(params, "base", ["mvbench"], adapter="published", output=Path("alone"))
    assert Path("alone/mvbench/results.jsonl").read_bytes() == Path("outputs/measured/base/mvbench/results.jsonl").read_bytes()


def test_no_lora_has_no_strength_and_a_limited_run_leaves_the_whole_one_alone(project):
    params = load_params()
    (whole,) = measure(params, "base", ["mvbench"])
    before = whole.read_bytes()
    assert json.loads(before)["provenance"]["lora_alpha"] is None
    (limited,) = measure(params, "base", ["mvbench"], limit=1)
    assert limited == Path("outputs/limited/base/mvbench/metrics.json")
    assert whole.read_bytes() == before
    with pytest.raises(PllavaError, match="base has no LoRA"):
        measure(params, "base", ["mvbench"], lora_alpha=4)


def test_a_model_that_is_not_there_is_said_at_once(project):
    with pytest.raises(PllavaError, match="no such folder"):
        measure(load_params(), "./nothing", ["mvbench"])
