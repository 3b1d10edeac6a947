"""The flow on a small DVC project of trivial stages: real DVC, real Prefect."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from foreign_page import ask, gets_nothing

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.usefixtures("prefect_server")]

PROJECT = """
stages:
  first:
    desc: Writes a file
    cmd: echo working on first && cp source one
    deps: [source]
    outs: [one]
  second:
    cmd: {second}
    deps: [one]
    outs: [two]
  third:
    cmd: cp two three
    deps: [two]
    outs: [three]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project; give it the command of its second stage."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    root.mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    (root / "source").write_text("a")

    def write(second="cp one two"):
        (root / "dvc.yaml").write_text(PROJECT.format(second=second))
        return root

    return write


@pytest.fixture(scope="module")
def run(prefect_server):
    """Run the stages of a project in a flow, and a task after the last; (message of the first failure, {task: state name})."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.stages import run_stages

    @task(task_run_name="after")
    def after():
        """Stands for register."""

    @flow(name="stages")
    def stages(root: Path):
        from prefect.runtime import flow_run

        failure, last = run_stages(root)
        after.submit(wait_for=last).wait()
        return failure, flow_run.get_id()

    def start(root: Path):
        failure, run_id = stages(root)
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        names = {task_run.id: task_run.name for task_run in runs}
        (last,) = [task_run for task_run in runs if task_run.name == "after"]
        assert {names[given.id] for inputs in last.task_inputs.values() for given in inputs} == {"third"}, (
            "drawn after the last stage alone"
        )
        return failure, {task_run.name: task_run.state_name for task_run in runs if task_run is not last}

    return start


def test_the_dag_is_read_from_dvc_in_order(project):
    from flows.dag import Stage, read_dag

    assert read_dag(project()) == [Stage("first", "Writes a file", ()), Stage("second", "", ("first",)), Stage("third", "", ("second",))]


def test_stages_run_once_and_are_cached_until_something_changes(project, run):
    root = project()
    failure, states = run(root)
    assert failure is None
    assert states == {"first": "Completed", "second": "Completed", "third": "Completed"}
    assert (root / "three").read_text() == "a"

    assert run(root) == (None, {"first": "Cached", "second": "Cached", "third": "Cached"})

    (root / "three").unlink()
    assert run(root)[1] == {"first": "Cached", "second": "Cached", "third": "Cached"}
    assert (root / "three").read_text() == "a", "DVC restored it"

    (root / "source").write_text("b")
    assert set(run(root)[1].values()) == {"Completed"}


def test_after_a_failed_stage_nothing_that_needs_it_runs(project, run):
    root = project(second="echo the reason is here && exit 3")
    failure, states = run(root)
    assert "stage second failed" in failure
    assert "the reason is here" in failure
    assert states["first"] == "Completed"
    assert states["second"] == "Failed"
    assert states["third"] == "NotReady"
    assert not (root / "three").exists()


def test_a_cancelled_flow_leaves_no_process_behind(project, run):
    from pllava.core.command import end_all

    root = project(second=f"{sys.executable} -c 'import time; print(1, flush=True); time.sleep(600)' {os.getpid()}")

    def sleeps(process):
        try:
            return "time.sleep(600)" in " ".join(process.cmdline()) and process.name() != "sh"
        except psutil.Error:  # it ended while we looked
            return False

    def grandchildren():
        return [process for process in psutil.Process().children(recursive=True) if sleeps(process)]

    outcome = []
    thread = threading.Thread(target=lambda: outcome.extend(run(root)))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not (found := grandchildren()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert found
    finally:
        end_all()
        thread.join(30)
    assert not thread.is_alive()
    assert not psutil.wait_procs(found, timeout=10)[1], "the system collects a killed orphan a moment later"
    assert outcome[1]["second"] == "Failed", "a killed stage is not taken for a finished one"
    assert outcome[1]["third"] == "NotReady"
    assert not (root / "three").exists()


def test_what_ran_when_the_services_were_killed_does_not_look_as_if_it_went_on(prefect_server):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Running

    from flows.deployments import mark_cut_off_runs
    from pllava.services.programs import POOL

    @flow(name="cut-off")
    def cut_off():
        """Never run here."""

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        deployment = client.create_deployment(client.create_flow(cut_off), "cut-off", work_pool_name=POOL)
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, Running(), force=True)
        mark_cut_off_runs(client)
        assert client.read_flow_run(run.id).state.is_crashed()


ENDED = """
import sys, time
from prefect import flow
from flows import pipeline
from flows.server import served

@served
@flow
def sleeps():
    print("sleeping", flush=True)
    time.sleep(600)

if sys.argv[1] == "python":
    sleeps()
pipeline.pipeline = sleeps
sys.exit(pipeline.main())
"""


@pytest.mark.parametrize(
    ("how", "number", "code"), [("module", signal.SIGTERM, 143), ("python", signal.SIGTERM, -15), ("python", signal.SIGKILL, -9)]
)
def test_a_flow_that_ends_takes_its_own_server_along(tmp_path, how, number, code):
    """By `python -m flows.pipeline` and by a call from Python; the server is the same, and guarded in the same way."""
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {"PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", ENDED, how]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert any(b"sleeping" in line for line in run.stdout)
        below = psutil.Process(run.pid).children(recursive=True)
        assert below, "the server of its own"
        ports = [c.laddr.port for child in below for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert len(ports) == 1
        url = f"http://127.0.0.1:{ports[0]}"
        gets_nothing(url, ["/", "/docs", "/api/health", "/api/deployments/", "/api/admin/settings"], ["/api/events/in", "/api/events/out"])
        assert ask(f"{url}/api/deployments/filter", "POST", b"{}", Content_Type="application/json")[0] == 401, "a program without its login"
        run.send_signal(number)
        assert run.wait(60) == code
    _, left = psutil.wait_procs(below, timeout=10)
    assert left == []


def test_a_run_beside_make_up_uses_its_server(prefect_server, tmp_path, monkeypatch):
    from urllib.parse import urlsplit

    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows import server
    from pllava.core.files import write_json

    running = PREFECT_API_URL.value()
    ports = {"mlflow_port": 1, "prefect_port": urlsplit(running).port, "demo_port": 2, "bridge_port": 3}
    write_json(tmp_path / ".state/stack.json", {"root": "", **ports})
    (tmp_path / ".state/prefect").mkdir()
    (tmp_path / ".state/prefect/login").write_text("pllava:of-the-stack")
    monkeypatch.setattr(server, "ROOT", tmp_path)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), server.api() as url:
        assert url == running.replace("localhost", "127.0.0.1")
        assert PREFECT_API_URL.value() == url
        assert PREFECT_API_AUTH_STRING.value() == "pllava:of-the-stack"


def test_a_flow_run_is_tagged_with_what_it_made(prefect_server):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    from flows import links

    @flow
    def tagged():
        links.tag("version 3", "champion")
        links.tag("version 3")
        return flow_run.get_id()

    with get_client(sync_client=True) as client:
        assert client.read_flow_run(tagged()).tags == ["version 3", "champion"]
