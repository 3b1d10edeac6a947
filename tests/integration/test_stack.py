"""The real services on ports of their own: used over REST as the Prefect page does, broken, stopped. Stages are trivial, DVC is real."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pllava.registry import store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PROJECT = Path(__file__).parents[2]
# `second` sleeps when train.steps is 7, fails when it is 8.
STAGES = """
stages:
  first:
    cmd: echo ${seed} > one && sleep 2
    params: [seed]
    outs: [one]
  second:
    cmd: case ${train.steps} in 7) exec sleep 613;; 8) echo the reason is here; exit 3;; *) cp one two;; esac
    params: [train.steps]
    deps: [one]
    outs: [two]
  third:
    cmd: cp two three
    deps: [two]
    outs: [three]
"""
VARIABLES = ("PREFECT_", "MLFLOW_", "PLLAVA_", "DVC_")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Services:
    """A copy of the project with its services."""

    def __init__(self, root, **environment):
        mlflow, prefect, demo = free_ports(3)
        ports = {"PLLAVA_MLFLOW_PORT": str(mlflow), "PLLAVA_PREFECT_PORT": str(prefect), "PLLAVA_DEMO_PORT": str(demo)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
        self.env = {**inherited, **ports, "PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1", **environment}
        self.root, self.mlflow, self.api = root, f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{prefect}/api"

    def do(self, *command, module="pllava.cli"):
        done = subprocess.run([sys.executable, "-m", module, *command], cwd=self.root, env=self.env, capture_output=True, text=True)
        self.code = done.returncode
        return done.stdout + done.stderr

    def call(self, path, body=None, base=None):
        """(status, answer) of GET, or of POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{base or self.api}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
                return response.status, json.loads(text) if text.startswith((b"{", b"[")) else text
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def submit(self, deployment, **parameters):
        found = self.call(f"/deployments/name/{deployment}")[1]
        return self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})

    def start(self, deployment, **parameters):
        status, run = self.submit(deployment, **parameters)
        assert status == 201, run
        return run

    def state(self, run):
        return self.call(f"/flow_runs/{run['id']}")[1]["state"]

    def wait(self, run, seconds=120):
        def ended():
            return self.state(run)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

        assert until(ended, seconds), f"still {self.state(run)}"
        return self.state(run)

    def tasks(self, run):
        found = self.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[1]
        return {task["name"].split("-")[0]: task["state_name"] for task in found}  # "gate-3d6" until it runs

    def processes(self):
        """All that carry the mark of this project."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PLLAVA_STACK") == str(self.root):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


def until(done, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def copy_project(root, template):
    for name in ("flows", "pllava", "recipes"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "prefect.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, root)
    (root / "dvc.yaml").write_text(STAGES)
    shutil.copytree(template, root / store.MLFLOW_HOME)
    for command in ("init -q", "config user.name A", "config user.email a@example.org"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    for command in ("add .", "commit -qm all"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)


@pytest.fixture(scope="module")
def services(tmp_path_factory, mlflow_template):
    if shutil.which("git") is None:
        pytest.skip("git is not installed: experiments are git worktrees")
    root = tmp_path_factory.mktemp("services") / "a project"  # a space is no trouble
    root.mkdir()
    copy_project(root, mlflow_template)
    services = Services(root)
    said = services.do("up")
    assert services.code == 0, said
    yield services
    services.do("down")


def test_what_runs_is_said_and_a_second_up_changes_nothing(services):
    status = services.do("status").splitlines()
    assert [line.split()[:2] for line in status[1:5]] == [[name, "running"] for name in ("prefect", "mlflow", "demo", "worker")]
    before = {process.pid for process in services.processes()}
    assert "already up" in services.do("up") and services.code == 0
    assert {process.pid for process in services.processes()} >= before
    others = {"PLLAVA_MLFLOW_PORT": "1025"}
    services.env, own = {**services.env, **others}, services.env
    assert "make down, then make up" in services.do("up") and services.code == 1
    services.env = own
    listening = {c.laddr.ip for process in services.processes() for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("deployment", "parameters", "field"),
    [
        ("pipeline/pipeline", {"recipe": "tyny"}, "recipe"),
        ("pipeline/pipeline", {"overrides": {"train": {"steps": 0}}}, "overrides.train.steps"),
        ("pipeline/pipeline", {"overrides": {"train": {"stepz": 5}}}, "stepz"),
        ("evaluate/evaluate", {"benchmark": "mvbenhc"}, "benchmark"),
        ("promote/promote", {"version": 0}, "version"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(services, deployment, parameters, field):
    status, answer = services.submit(deployment, **parameters)
    assert status in (409, 422) and field in answer


def test_experiments_and_a_plain_run_side_by_side(services):
    """Each has its own settings and outputs; experiments are kept under the names of their runs; the main folder has the plain run's."""
    plain = services.start("pipeline/pipeline")
    queued = services.start("pipeline/pipeline")
    experiments = {seed: services.start("pipeline/experiment", overrides={"seed": seed}) for seed in (101, 102)}
    for run in experiments.values():
        assert services.wait(run)["type"] == "COMPLETED", services.state(run)
        assert services.tasks(run) == {"first": "Completed", "second": "Completed", "third": "Completed"}
    ended = services.wait(plain)
    assert ended["type"] == "FAILED" and "outputs/train/adapter" in ended["message"], "no adapter was trained: nothing to register"
    stages = {"first": "Completed", "second": "Completed", "third": "Completed"}
    later = {"register": "Failed", "gate": "NotReady", "promote": "NotReady", "deploy": "NotReady"}
    assert services.tasks(plain) == stages | later

    params = (services.root / "params.yaml").read_text()
    assert params == (PROJECT / "params.yaml").read_text() and (services.root / "three").read_text() == "17\n"
    assert not [path for path in (services.root / ".state/workspaces").iterdir() if path.is_dir()]
    shown = services.do("exp", "show", "--json", module="dvc")
    assert all(run["name"] in shown for run in experiments.values())
    services.wait(queued)
    services.do("exp", "apply", experiments[102]["name"], module="dvc")
    assert services.code == 0 and (services.root / "three").read_text() == "102\n"
    assert (services.root / "params.yaml").read_text() == params.replace("seed: 17", "seed: 102"), "comments and all"
    subprocess.run(["git", "checkout", "-q", "."], cwd=services.root, check=True)


def test_settings_that_do_not_fit_together_stop_before_any_stage(services):
    run = services.start("pipeline/experiment", overrides={"model": {"num_frames": 4}})
    ended = services.wait(run)
    assert ended["type"] == "FAILED" and "pooling_shape[0] = 8 is more than num_frames = 4" in ended["message"]
    assert services.tasks(run) == {}


def test_a_failed_stage_says_why(services):
    run = services.start("pipeline/experiment", overrides={"train": {"steps": 8}})
    ended = services.wait(run)
    assert ended["type"] == "FAILED" and "stage second failed" in ended["message"] and "the reason is here" in ended["message"]
    assert services.tasks(run) == {"first": services.tasks(run)["first"], "second": "Failed", "third": "NotReady"}


def test_a_cancelled_run_is_gone_in_five_seconds(services):
    def sleepers():
        return [process for process in services.processes() if process.cmdline()[-2:] == ["sleep", "613"]]

    run = services.start("pipeline/experiment", overrides={"train": {"steps": 7}})
    found = until(sleepers)
    assert found
    services.call(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    asked = time.monotonic()
    assert until(lambda: not sleepers(), 10)
    assert time.monotonic() - asked < 5
    assert services.wait(run, 30)["type"] == "CANCELLED"
    assert until(lambda: not [path for path in (services.root / ".state/workspaces").iterdir() if path.is_dir()], 10)
    again = services.start("pipeline/experiment", overrides={"train": {"steps": 9}})
    assert services.wait(again)["type"] == "COMPLETED"


def test_a_dead_service_is_restarted(services):
    def parents():
        return [process for process in services.processes() if process.cmdline()[1:4] == ["-m", "mlflow", "server"]]

    (dead,) = parents()
    for process in [*dead.children(recursive=True), dead]:
        process.send_signal(signal.SIGKILL)
    assert until(lambda: [process for process in parents() if process.pid != dead.pid], 20)

    def answers():
        try:
            return services.call("/health", base=services.mlflow)[0] == 200
        except OSError:
            return False

    assert until(answers, 60)


def test_down_leaves_no_process_and_what_was_recorded_stays(services):
    running = services.start("pipeline/experiment", overrides={"train": {"steps": 7}})
    assert until(lambda: [process for process in services.processes() if process.cmdline()[-2:] == ["sleep", "613"]])
    assert "stopped: worker" in services.do("down") and services.code == 0
    assert services.processes() == []
    assert services.do("status").startswith("no services run")
    assert "nothing of this project is running" in services.do("down")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(services.env["PLLAVA_MLFLOW_PORT"])))
        taken.listen()
        assert "is in use" in (said := services.do("up")) and "make up PLLAVA_MLFLOW_PORT=" in said
        assert services.code == 1 and services.processes() == []
    services.do("up")
    assert services.state(running)["type"] == "CRASHED"
