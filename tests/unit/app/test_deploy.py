"""What a deployment decides: stay, restart, refuse, or go back. The process itself is started in tests/integration/test_deploy.py."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pllava.apps.demo.samples import Sample
from pllava.core import processes as process
from pllava.core.errors import PllavaError
from pllava.core.params import load_params
from pllava.registry.promote import Champion
from pllava.services import deploy as deployment
from pllava.services.stack import Stack

PARAMS = load_params(Path(__file__).parents[3] / "recipes/tiny.yaml")
CLIP = Sample(Path("clip.mp4"), "Moving Direction", "Which way?", "left")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A registry with a champion and a previous one; starting a process is noted, and fails for the versions in `broken`."""
    monkeypatch.chdir(tmp_path)
    world = SimpleNamespace(champion=2, previous=1, started=[], stopped=0, broken=set(), busy=False, alive=True)

    def start(params, wanted, clip):
        world.started.append(wanted["version"])
        if wanted["version"] in world.broken:
            raise PllavaError("it ended with code 1")
        place = {"host": params.deploy.host, "port": params.deploy.port, "url": "http://here"}
        trial = {"clip": "clip.mp4", "question": "Which way?", "answer": "left"}
        return process.record(psutil.Process(os.getpid()), state="serving", **wanted, **place, **trial)

    def rollback(params):
        if world.previous is None:
            raise PllavaError("no previous champion")
        world.champion, world.previous = world.previous, world.champion
        return Champion("pllava", world.champion, world.previous)

    def stop():
        world.stopped += 1
        process.RECORD.unlink(missing_ok=True)

    def free(host, port, next_step):
        if world.busy:
            raise PllavaError(f"port {port} is in use")

    def champion(params):
        return SimpleNamespace(version=world.champion, tags={"adapter_sha256": f"sha of {world.champion}"}) if world.champion else None

    monkeypatch.setattr(deployment, "_start", start)
    monkeypatch.setattr(deployment, "_serves", lambda url, wanted: world.alive and world.started[-1] == wanted["version"])
    monkeypatch.setattr(deployment, "champion", champion)
    monkeypatch.setattr(deployment, "adopt", lambda params: None)
    monkeypatch.setattr(deployment, "first_sample", lambda params: CLIP)
    monkeypatch.setattr(deployment.process, "stop", stop)
    monkeypatch.setattr(deployment.process, "require_free_port", free)
    monkeypatch.setattr("pllava.registry.rollback", rollback)
    return world


def test_the_champion_is_started(world):
    served = deployment.deploy(PARAMS)
    assert (served.version, served.answer, served.restarted) == (2, "left", True)
    assert "now serves pllava version 2" in served.describe()


def test_what_serves_already_is_left_alone(world):
    deployment.deploy(PARAMS)
    again = deployment.deploy(PARAMS)
    assert not again.restarted
    assert world.started == [2]
    assert world.stopped == 1


def test_a_new_champion_replaces_the_old_one_on_the_port_we_hold(world):
    deployment.deploy(PARAMS)
    world.champion, world.previous, world.busy = 3, 2, True  # the port is busy: by us
    assert deployment.deploy(PARAMS).version == 3
    assert world.started == [2, 3]


def test_a_demo_that_does_not_answer_any_more_is_restarted(world):
    deployment.deploy(PARAMS)
    world.alive = False
    assert deployment.deploy(PARAMS).restarted


def test_a_port_of_someone_else_changes_nothing(world):
    world.busy = True
    with pytest.raises(PllavaError, match="in use"):
        deployment.deploy(PARAMS)
    assert (world.started, world.stopped, world.champion) == ([], 0, 2)


def test_a_champion_that_does_not_serve_gives_way_to_the_previous(world):
    world.broken = {2}
    with pytest.raises(
        PllavaError, match=r"version 2 does not serve: it ended with code 1\nVersion 1 is champion again and serves at http"
    ):
        deployment.deploy(PARAMS)
    assert world.started == [2, 1]
    assert world.champion == 1
    assert process.recorded()["version"] == 1


def test_a_first_champion_that_does_not_serve_leaves_nothing_running(world):
    world.broken, world.previous = {2}, None
    with pytest.raises(PllavaError, match="Nothing serves now"):
        deployment.deploy(PARAMS)
    assert process.recorded() is None


def test_when_both_fail_both_are_told(world):
    world.broken = {1, 2}
    with pytest.raises(PllavaError, match="Version 1 is champion again, but it does not serve either"):
        deployment.deploy(PARAMS)
    assert process.recorded() is None


def test_without_a_champion_the_next_command_is_named(world):
    world.champion = None
    with pytest.raises(PllavaError, match="pllava promote"):
        deployment.deploy(PARAMS)


def test_torch_and_gradio_are_not_imported_to_find_that_all_is_well():
    import subprocess
    import sys

    code = (
        "import sys, pllava.services.deploy; print([name for name in ('torch', 'gradio', 'mlflow', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_port_of_services_counts_only_while_they_run(world, monkeypatch):
    """A machine that was switched off leaves their record."""
    Stack(Path.cwd(), 5000, 4200, 7999, 5010).save()
    assert process.recorded() is None
    assert deployment.deploy(PARAMS)
    assert process.recorded()["port"] == PARAMS.deploy.port
    monkeypatch.setattr(deployment.supervisor, "connect", lambda root: object())
    assert deployment.deploy(PARAMS)
    assert process.recorded()["port"] == 7999


def test_a_host_beyond_this_machine_needs_a_password_and_nothing_is_touched_without(world, monkeypatch):
    monkeypatch.delenv("PLLAVA_AUTH", raising=False)
    open_to_all = PARAMS.model_copy(update={"deploy": PARAMS.deploy.model_copy(update={"host": "0.0.0.0"})})
    with pytest.raises(PllavaError, match="PLLAVA_AUTH"):
        deployment.deploy(open_to_all)
    assert world.started == []
    assert world.stopped == 0
    assert world.champion == 2
    monkeypatch.setenv("PLLAVA_AUTH", "me:secret")
    assert deployment.deploy(open_to_all).version == 2
