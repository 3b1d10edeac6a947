"""A champion really serves in the background; a broken one gives way to the one before. Real processes, a tiny random model."""

import json
import shutil
import socket
import time
from pathlib import Path

import psutil
import pytest
from serving import Visitor, write_adapter, write_clip

from pllava.core import processes as process
from pllava.core.errors import PllavaError
from pllava.core.params import Params, load_params
from pllava.registry import versions
from pllava.services.deploy import deploy, stop_demo
from pllava.tracking import store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
RECIPE = Path(__file__).parents[2] / "recipes/tiny.yaml"


@pytest.fixture
def params(tmp_path, monkeypatch, mlflow_template) -> Params:
    """A project folder with a registry, one held-out clip and a free port."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(RECIPE, "params.yaml")
    shutil.copytree(mlflow_template, store.MLFLOW_HOME)
    write_clip(tmp_path / "MVBench/video/moving_direction/0.mp4")
    (tmp_path / "MVBench/json").mkdir()
    entry = {"video": "0.mp4", "question": "Which way?", "candidates": ["left", "right"], "answer": "left"}
    (tmp_path / "MVBench/json/moving_direction.json").write_text(json.dumps([entry]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = load_params().model_dump()
    values["evaluate"]["benchmarks"]["mvbench"]["root"] = "MVBench"
    values["deploy"] = {"host": "127.0.0.1", "port": port, "timeout_seconds": 600}
    yield Params.model_validate(values)
    stop_demo()


def crown(params: Params, base: Path, seed: int) -> int:
    """Make an adapter of random LoRA, register it and move the aliases; return its version."""
    folder = Path(f"adapters/{seed}").absolute()
    digest = write_adapter(base, folder, seed, {"base": str(base), "template": "vicuna"})
    connection, name = store.client(), params.registry.model_name
    versions.ensure_model(connection, name)
    made = connection.create_model_version(name, folder.as_uri(), tags={"adapter_sha256": digest})
    if current := versions.by_alias(connection, name, versions.CHAMPION):
        connection.set_registered_model_alias(name, versions.PREVIOUS, str(current.version))
    connection.set_registered_model_alias(name, versions.CHAMPION, str(made.version))
    return int(made.version)


def champion(params: Params) -> int:
    return int(versions.by_alias(store.client(), params.registry.model_name, versions.CHAMPION).version)


def test_deploy_serves_stays_switches_without_a_gap_goes_back_and_stops(params, tiny_base_dir):
    assert crown(params, tiny_base_dir, 1) == 1
    first = deploy(params)
    assert first.version == 1
    assert first.answer
    assert first.restarted
    assert psutil.Process(first.pid).net_connections()[0].laddr.ip == "127.0.0.1"

    used = time.process_time()  # of this process: other work on the machine does not count
    again = deploy(params)
    assert (again.pid, again.restarted, again.answer) == (first.pid, False, first.answer)
    assert time.process_time() - used < 3

    with Visitor(first.url, first.clip) as visitor:
        assert crown(params, tiny_base_dir, 2) == 2
        second = deploy(params)
        assert (second.version, second.restarted, second.pid) == (2, False, first.pid)
        seen = len(visitor.versions)

        crown(params, tiny_base_dir, 3)
        (Path("adapters/3") / "adapter_model.safetensors").write_bytes(b"rotten")
        with pytest.raises(PllavaError, match="version 3 does not serve") as refused:
            deploy(params)
        assert "Version 2 goes on serving" in str(refused.value)
        assert "is champion again" in str(refused.value)
        assert champion(params) == 2
        serving = process.recorded()
        assert (serving["version"], serving["state"], serving["pid"]) == (2, "serving", first.pid)
        while len(visitor.versions) < seen + 2 and not visitor.problems:
            time.sleep(0.1)
    assert visitor.problems == []
    assert all(visitor.answers)
    assert sorted(set(visitor.versions)) == [1, 2]
    assert visitor.versions == sorted(visitor.versions), "the old one came back"

    assert stop_demo() == serving["pid"]
    process.require_free_port(params.deploy.host, params.deploy.port, "")


def test_a_champion_that_was_made_in_mlflow_itself_can_be_rolled_back(params, tiny_base_dir):
    from pllava.registry import promote, rollback

    for seed in (1, 2, 3):
        crown(params, tiny_base_dir, seed)
    connection, name = store.client(), params.registry.model_name
    connection.set_registered_model_alias(name, versions.PREVIOUS, "1")
    connection.set_registered_model_alias(name, versions.CHAMPION, "2")
    promote(params, version=2)  # nothing to do; version 2 is who we know
    connection.set_registered_model_alias(name, versions.CHAMPION, "3")  # as MLflow's page does: `previous` stays at 1
    assert str(rollback(params)) == "champion of pllava: version 2 (previous: 3)"
    assert "moved in MLflow" in connection.get_model_version(name, "3").tags["promoted_by"]


def test_a_port_of_another_process_changes_nothing(params, tiny_base_dir):
    crown(params, tiny_base_dir, 1)
    with socket.socket() as taken:
        taken.bind((params.deploy.host, params.deploy.port))
        taken.listen()
        with pytest.raises(PllavaError, match=rf"port {params.deploy.port} .* is in use, held by process \d+ .*pllava deploy"):
            deploy(params)
    assert process.recorded() is None
    assert champion(params) == 1
