"""The real services on ports of their own: used over REST as the Prefect page does, broken, stopped. Stages are trivial, DVC is real."""

import shutil
import signal
import socket
import subprocess
import time

import psutil
import pytest
from services import PROJECT, Services, copy_project, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


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
    names = ("prefect", "mlflow", "bridge", "demo", "worker")
    assert [line.split()[:2] for line in status[1:6]] == [[name, "running"] for name in names]
    assert "already up" in services.do("up") and services.code == 0
    assert [line.split()[2] for line in services.do("status").splitlines()[1:6]] == [line.split()[2] for line in status[1:6]]
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
        return services.running("sleep", "613")

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
        return services.running(*["--workers", "1"])

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
    assert until(lambda: services.running("sleep", "613"))
    assert (said := services.do("down")).startswith("stopped: worker, ") and "left" not in said and services.code == 0
    assert services.processes() == []
    assert not [path for path in (services.root / ".state/workspaces").iterdir() if path.is_dir()]
    assert services.do("status").startswith("no services run")
    assert "nothing of this project is running" in services.do("down")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(services.env["PLLAVA_MLFLOW_PORT"])))
        taken.listen()
        assert "is in use" in (said := services.do("up")) and "make up PLLAVA_MLFLOW_PORT=" in said
        assert services.code == 1 and services.processes() == []
    services.do("up")
    assert services.state(running)["type"] == "CRASHED"
