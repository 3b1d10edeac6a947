"""From a version back to what made it, and made again from that: real git, DVC and MLflow, a training that takes no time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pllava import registry
from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.params import load_params
from pllava.registry.lineage import lineage, text
from pllava.registry.reproduce import _data, _worktree, reproduce
from pllava.tracking import runs as tracking
from pllava.tracking import store
from pllava.tracking.provenance import params_sha256

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TRAIN = """
import hashlib, json, pathlib, sys
seed = [line for line in pathlib.Path("params.yaml").read_text().splitlines() if line.startswith("seed:")][0]
weights = pathlib.Path("prepared").read_bytes() + seed.encode()
folder = pathlib.Path("outputs/train/adapter")
folder.mkdir(parents=True)
(folder / "adapter_model.safetensors").write_bytes(weights)
digest = hashlib.sha256(weights).hexdigest()
(folder / "manifest.json").write_text(json.dumps({"files": {"adapter_model.safetensors": digest}, "adapter_sha256": digest}))
"""


def sh(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch, mlflow_template):
    """A committed project whose version 1 is registered."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b")
    shutil.copytree(mlflow_template, store.MLFLOW_HOME)
    shutil.copy(ROOT / "recipes/tiny.yaml", "params.yaml")
    Path("train.py").write_text(TRAIN)
    Path("source").write_text("data")
    copy = f"{sys.executable} -c \"open('prepared','wb').write(open('source','rb').read())\""
    stages = {
        "prepare": {"cmd": copy, "deps": ["source"], "outs": ["prepared"]},
        "train": {"cmd": f"{sys.executable} train.py", "deps": ["prepared", "train.py"], "params": ["seed"], "outs": ["outputs/train"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Path(".gitignore").write_text(".state/\noutputs/\nmetrics/\nprepared\n")
    sh("git", "init", "-q")
    sh(sys.executable, "-m", "dvc", "init", "-q")
    sh("git", "add", ".")
    sh("git", "commit", "-qm", "first")
    params = load_params()
    with tracking.training_run(params):
        sh(sys.executable, "-m", "dvc", "repro")
    digest = tracking.adapter_digest(root)
    score = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 1}
    provenance = {"data_sha256": "d" * 64, "template_sha256": "t" * 64, "adapter_sha256": digest, "benchmark": "mvbench"}
    models = {"adapted": {"average": score, "tasks": {"Moving Count": score}}}
    write_json("metrics/mvbench.json", {"benchmark": "mvbench", "provenance": provenance, "models": models})
    Path("outputs/evaluate/mvbench").mkdir(parents=True)
    Path("outputs/evaluate/mvbench/results.jsonl").write_text("")
    registry.register(params)
    return root


def test_every_way_in_leads_back_to_commit_settings_data_and_packages(project):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    found = lineage(load_params(), "models:/pllava@candidate")
    assert found["version"]["number"] == 1
    assert found["git"] == {"commit": commit, "dirty": "false"}
    assert found["params_sha256"] == params_sha256(load_params())
    assert set(found["dvc_lock"]) == {"sha256", "prepared", "outputs/train"}
    assert found["packages"]["torch"].startswith("2.")
    for target in ("models:/pllava/1", "outputs/train/adapter", "metrics/mvbench.json", "outputs/evaluate/mvbench/results.jsonl"):
        same = lineage(load_params(), target)
        assert (same["run"], same["version"]["number"]) == (found["run"], 1), target
    assert f"git  commit: {commit}" in text(found)
    assert json.dumps(found)
    with pytest.raises(PllavaError, match="not a registry address"):
        lineage(load_params(), "nothing")


def test_a_version_is_made_again_from_its_commit_though_the_project_has_moved_on(project):
    Path("source").write_text("other data")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 17", "seed: 18"))
    sh("git", "commit", "-qam", "second")
    lines: list[object] = []
    result = reproduce("models:/pllava/1", lines.append)
    assert result.equal, result.describe()
    assert any("Running stage 'train'" in str(line) for line in lines), "training is not taken from a cache"
    assert not list(Path(".state/reproduce").iterdir())
    assert len(subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout.splitlines()) == 1
    assert Path("source").read_text() == "other data"


def test_other_bytes_are_told(project):
    connection = store.client()
    connection.set_model_version_tag("pllava", "1", "adapter_sha256", registry.resolve("models:/pllava/1") and "0" * 64)
    with pytest.raises(PllavaError, match="is not what version 1"):
        reproduce("models:/pllava/1", lambda line: None)
    run = connection.get_run(connection.get_model_version("pllava", "1").run_id)
    connection.set_tag(run.info.run_id, "git.commit", "0" * 40)
    connection.set_model_version_tag("pllava", "1", "adapter_sha256", str(tracking.adapter_digest(project)))
    with pytest.raises(PllavaError, match="not in this repository"):
        reproduce("models:/pllava/1", lambda line: None)


def test_a_training_that_does_not_repeat_is_told(project):
    """The settings the run recorded, not those of the commit, are used: here they were others."""
    connection = store.client()
    run = connection.get_run(connection.get_model_version("pllava", "1").run_id)
    values = yaml.safe_load(Path("params.yaml").read_text()) | {"seed": 5}
    recorded = load_params().model_copy(update={"seed": values["seed"]}).model_dump(mode="json")
    connection.log_text(run.info.run_id, yaml.safe_dump(recorded, sort_keys=False), tracking.PARAMS)
    result = reproduce("models:/pllava/1", lambda line: None)
    assert not result.equal
    assert "OTHER bytes" in result.describe()


def test_data_that_left_the_cache_comes_from_a_remote_beside_the_project(project):
    """`make remote` puts it at ../pllava-storage, which is another place as seen from the worktree."""
    Path("extra").write_text("clips")
    for command in (["add", "extra"], ["remote", "add", "--default", "storage", "../storage"], ["push"]):
        sh(sys.executable, "-m", "dvc", *command)
    sh("git", "add", ".")
    sh("git", "commit", "-qm", "data")
    shutil.rmtree(".dvc/cache")
    with _worktree(project, "HEAD") as tree:
        _data(tree, dict(os.environ), lambda line: None)
        assert (tree / "extra").read_text() == "clips"
