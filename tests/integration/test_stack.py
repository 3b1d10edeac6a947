"""The real services on ports of their own: used over REST as the Prefect page does, broken, stopped. Stages are trivial, DVC is real."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import psutil
import pytest
import yaml
from foreign_page import ask, gets_nothing
from services import PROJECT, Services, copy_project, down_at_the_end, until
from serving import Visitor, write_adapter, write_clip

from pllava.core.files import UMASK
from pllava.services.stack import LOGIN

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def services(tmp_path_factory, mlflow_template):
    if shutil.which("git") is None:
        pytest.skip("git is not installed: experiments are git worktrees")
    root = tmp_path_factory.mktemp("services") / "a project"  # a space is no trouble
    root.mkdir()
    copy_project(root, mlflow_template)
    services = Services(root)
    with down_at_the_end(services):
        said = services.do("up")
        assert services.code == 0, said
        yield services


def test_what_runs_is_said_and_a_second_up_changes_nothing(services):
    status = services.do("status").splitlines()
    names = ("prefect", "mlflow", "bridge", "demo", "worker")
    assert [line.split()[:2] for line in status[1:6]] == [[name, "running"] for name in names]
    assert "already up" in services.do("up")
    assert services.code == 0
    assert [line.split()[2] for line in services.do("status").splitlines()[1:6]] == [line.split()[2] for line in status[1:6]]
    others = {"PLLAVA_MLFLOW_PORT": "1025"}
    services.env, own = {**services.env, **others}, services.env
    assert "make down, then make up" in services.do("up")
    assert services.code == 1
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
    assert status in (409, 422)
    assert field in answer


def test_experiments_and_a_plain_run_side_by_side(services):
    """Each has its own settings and outputs; experiments are kept under the names of their runs; the main folder has the plain run's."""
    plain = services.start("pipeline/pipeline")
    queued = services.start("pipeline/pipeline")
    experiments = {seed: services.start("pipeline/experiment", overrides={"seed": seed}) for seed in (101, 102)}
    for run in experiments.values():
        assert services.wait(run)["type"] == "COMPLETED", services.state(run)
        completed = dict.fromkeys(("first", "second", "third"), "Completed")
        assert services.tasks(run, completed) == completed
    ended = services.wait(plain)
    assert ended["type"] == "FAILED"
    assert "outputs/train/adapter" in ended["message"], "no adapter was trained: nothing to register"
    services.wait(queued)
    later = {"register": "Failed"} | dict.fromkeys(("measure", "gate", "promote", "deploy"), "NotReady")
    for run in (plain, queued):  # whichever came first
        tasks = services.tasks(run, later)
        assert {name: tasks[name] for name in later} == later
        assert set(tasks) - set(later) == {"first", "second", "third"}
    assert {services.tasks(run)["third"] for run in (plain, queued)} == {"Completed", "Cached"}

    params = (services.root / "params.yaml").read_text()
    assert params == (PROJECT / "params.yaml").read_text()
    assert (services.root / "three").read_text() == "17\n"
    assert not [path for path in (services.root / ".state/workspaces").iterdir() if path.is_dir()]
    shown = services.do("exp", "show", "--json", module="dvc")
    assert all(run["name"] in shown for run in experiments.values())
    services.do("exp", "apply", experiments[102]["name"], module="dvc")
    assert services.code == 0
    assert (services.root / "three").read_text() == "102\n"
    assert (services.root / "params.yaml").read_text() == params.replace("seed: 17", "seed: 102"), "comments and all"
    subprocess.run(["git", "checkout", "-q", "."], cwd=services.root, check=True)


def test_what_goes_wrong_is_said(services):
    """Settings that do not fit together stop a run before any stage; a stage that fails says why."""
    unfit = services.start("pipeline/experiment", overrides={"model": {"num_frames": 4}})
    broken = services.start("pipeline/experiment", overrides={"train": {"steps": 8}})
    ended = services.wait(unfit)
    assert ended["type"] == "FAILED"
    assert "pooling_shape[0] = 8 is more than num_frames = 4" in ended["message"]
    assert services.tasks(unfit) == {}
    ended = services.wait(broken)
    assert ended["type"] == "FAILED"
    assert "stage second failed" in ended["message"]
    assert "the reason is here" in ended["message"]
    tasks = services.tasks(broken, {"second": "Failed", "third": "NotReady"})
    assert tasks == {"first": tasks["first"], "second": "Failed", "third": "NotReady"}


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


QUESTION = "Which way?"


def train(root, base, seed):
    """Leaves behind what the stages do: an adapter, measured on the test set of this moment; its adapter_sha256."""
    from pllava.core.files import atomic_write_text, write_json
    from pllava.core.params import load_params
    from pllava.registry.measure import measure

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        params = load_params()
        config = {"base": "base", "template": "vicuna", "model": params.model.model_dump(mode="json")}
        digest = write_adapter(base, root / "outputs/train/adapter", seed, config, num_frames=4, pooling_shape=(4, 2, 2))
        (metrics,) = measure(params, "outputs/train/adapter", ["mvbench"], output=root / "outputs/looked")
        rows = [json.loads(line) for line in metrics.with_name("results.jsonl").read_text().splitlines()]
        content = json.loads(metrics.read_text())
        # Random weights guess worse than chance, and the gate refuses such a champion: they are taken to have answered rightly.
        right = {"value": 1.0, "low": 1.0, "high": 1.0}
        adapted = content["models"]["adapted"]
        for cell in (*adapted["tasks"].values(), *(value for key, value in adapted.items() if key.startswith("average"))):
            cell |= right
        write_json(root / "metrics/mvbench.json", content)
        lines = [json.dumps(row | {"prediction": row["answer"], "correct": True}) for row in rows]
        atomic_write_text(root / "outputs/evaluate/mvbench/results.jsonl", "\n".join(lines) + "\n")
    return digest


def add_clip(root, number):
    """One more question of the test set."""
    write_clip(root / f"MVBench/video/moving_direction/{number}.mp4", 5 + 7 * number)
    file = root / "MVBench/json/moving_direction.json"
    file.parent.mkdir(exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else []
    file.write_text(
        json.dumps([*known, {"video": f"{number}.mp4", "question": QUESTION, "candidates": ["left", "right"], "answer": "left"}])
    )


def test_from_the_run_form_to_a_promoted_version_and_back(services, tiny_base_dir):
    """Run by REST, as the UI does; promoted in MLflow; rolled back by REST. A visitor asks the demo all the time, and never in vain."""
    from gradio_client import Client, handle_file
    from mlflow import MlflowClient

    root = services.root
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["model"] |= {"base": "base", "num_frames": 4, "pooling_shape": [4, 2, 2], "template": "vicuna"}
    values["evaluate"]["benchmarks"] = {"mvbench": values["evaluate"]["benchmarks"]["mvbench"] | {"root": "MVBench", "template": "vicuna"}}
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.copytree(tiny_base_dir, root / "base")

    add_clip(root, 0)
    digests = {1: train(root, tiny_base_dir, 1)}
    run = services.start("pipeline/pipeline")
    assert services.wait(run)["type"] == "COMPLETED", services.state(run)
    decided = {"register": "Completed", "measure": "Cached", "gate": "Completed", "promote": "Completed", "deploy": "Completed"}
    assert services.tasks(run, decided).items() >= decided.items(), "no champion yet: none to measure"

    demo = Client(services.demo, verbose=False, httpx_kwargs={"trust_env": False}, analytics_enabled=False)
    clip = str(root / "MVBench/video/moving_direction/0.mp4")

    def served():
        return demo.predict(api_name="/version")

    def answer():
        return demo.predict(handle_file(clip), QUESTION, api_name="/ask")

    assert served()["version"] == 1
    assert served()["adapter_sha256"] == digests[1]
    answers = {1: answer()}
    with Visitor(services.demo, clip) as visitor:
        add_clip(root, 1)  # another test set: the champion's numbers are not comparable any more
        digests[2] = train(root, tiny_base_dir, 2)
        run = services.start("pipeline/pipeline")
        assert services.wait(run)["type"] == "COMPLETED", services.state(run)
        decided |= {"measure": "Completed"}
        assert services.tasks(run, decided).items() >= decided.items()
        assert served()["version"] == 2
        assert served()["adapter_sha256"] == digests[2]
        answers[2] = answer()
        assert answers[1] != answers[2]

        client = MlflowClient(services.mlflow, services.mlflow)
        client.set_registered_model_alias("pllava", "champion", "1")  # as MLflow's page does, and no more
        assert until(lambda: served()["version"] == 1), "webhook, bridge, event, automation, deployment"
        (deployed,) = services.call("/flow_runs/filter", {"flows": {"name": {"any_": ["deploy"]}}})[1]
        assert services.wait(deployed)["type"] == "COMPLETED"
        assert deployed["created_by"]["type"] == "AUTOMATION"
        assert answer() == answers[1]

        back = services.start("rollback/rollback")
        assert services.wait(back)["type"] == "COMPLETED", services.state(back)
        assert "version 2 (previous: 1)" in services.state(back)["message"]
        assert served()["version"] == 2
        assert served()["adapter_sha256"] == digests[2]
        assert answer() == answers[2]
        seen = len(visitor.versions)
        assert until(lambda: len(visitor.versions) >= seen + 2)
    assert visitor.problems == []
    assert [version for version, last in zip(visitor.versions, [0, *visitor.versions], strict=False) if version != last] == [1, 2, 1, 2]
    assert set(visitor.answers) == set(answers.values())


PATHS = {
    "prefect": ["/", "/docs", "/ui-settings", "/api/health", "/api/deployments/filter", "/api/deployments/", "/api/admin/settings"],
    "mlflow": ["/", "/health", "/graphql", "/api/2.0/mlflow/experiments/create", "/ajax-api/2.0/mlflow/experiments/search"],
    "bridge": ["/health", "/mlflow"],
    "demo": ["/", "/config", "/gradio_api/upload", "/gradio_api/queue/join", "/monitoring/summary", "/gradio_api/runs"],
}
SOCKETS = ["/api/events/in", "/api/events/out", "/api/logs/out", "/api/task_runs/subscriptions/scheduled"]


@pytest.mark.parametrize("service", PATHS)
def test_a_page_of_another_origin_gets_nothing(services, service):
    gets_nothing(getattr(services, service), PATHS[service], SOCKETS if service == "prefect" else ["/"])
    assert ask(getattr(services, service), Host=None, Origin=getattr(services, service))[0] in (200, 404), "its own page"


def test_prefect_asks_everybody_for_the_login(services):
    gets_nothing(services.prefect, ["/api/deployments/filter"], **services.login())  # a foreign page that knew it
    for path, method in (("/deployments/filter", "POST"), ("/admin/settings", "GET"), ("/deployments/", "POST"), ("/events", "POST")):
        for headers in ({}, {"Origin": services.prefect}, {"Authorization": "Basic cGxsYXZhOng="}):
            assert ask(f"{services.api}{path}", method, b"{}", Content_Type="application/json", **headers)[0] == 401
    assert ask(f"{services.api}/deployments/filter", "POST", b"{}", Content_Type="application/json", **services.login())[0] == 200


def test_a_person_logs_in_to_the_pages_of_prefect(services):
    """By both names of this machine; forms and live events work as before."""
    pytest.importorskip("playwright", reason="no playwright here: pip install -e '.[dev]'")
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("no Chromium on PATH; on Debian: apt install chromium")
    deployment = services.call("/deployments/name/pipeline/pipeline")[1]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for url in (services.prefect, services.prefect.replace("127.0.0.1", "localhost")):
            page = browser.new_page()
            page.set_default_timeout(60_000)
            page.goto(url)
            page.get_by_placeholder("admin:pass").fill((services.root / LOGIN).read_text())
            refused = []
            page.on("response", lambda response, refused=refused: refused.append(response.url) if response.status in (401, 403) else None)
            page.get_by_role("button", name="Login").click()
            page.get_by_text("Active Work Pools").wait_for()
            page.goto(f"{url}/deployments/deployment/{deployment['id']}/run")
            page.get_by_text("overrides (Optional)").wait_for()
            assert refused == []
            page.close()
        browser.close()


def test_a_run_that_is_killed_outright_leaves_nothing_of_its_stage(services):
    run = services.start("pipeline/experiment", overrides={"train": {"steps": 7}})
    assert until(lambda: services.running("sleep", "613"))
    for process in services.processes():
        if process.environ().get("PREFECT__FLOW_RUN_ID") == run["id"] and "prefect" in " ".join(process.cmdline()):
            process.kill()
    assert until(lambda: not services.running("sleep", "613"), 15)
    assert services.wait(run, 60)["type"] == "CRASHED"


def test_dead_services_are_restarted(services):
    """Also all of them at once."""
    names = ("prefect", "mlflow", "bridge", "demo", "worker")

    def pids():
        rows = [line.split() for line in services.do("status").splitlines()[1:6]]
        return {name: int(pid) for name, state, pid, *_ in rows if state == "running" and pid.isdigit()}

    dead = pids()
    assert set(dead) == set(names)
    for pid in dead.values():
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: len(now := pids()) == len(names) and not set(now.values()) & set(dead.values()), 60)
    run = services.start("pipeline/experiment", overrides={"seed": 103})
    assert services.wait(run)["type"] == "COMPLETED"


def test_down_leaves_no_process_and_what_was_recorded_stays(services):
    running = services.start("pipeline/experiment", overrides={"train": {"steps": 7}})
    assert until(lambda: services.running("sleep", "613"))
    assert (said := services.do("down")).startswith("stopped: worker, ")
    assert "left" not in said
    assert services.code == 0
    assert services.processes() == []
    assert not [path for path in (services.root / ".state/workspaces").iterdir() if path.is_dir()]
    assert services.do("status").startswith("no services run")
    assert "nothing of this project is running" in services.do("down")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may linger
        taken.bind(("127.0.0.1", int(services.env["PLLAVA_MLFLOW_PORT"])))
        taken.listen()
        assert "is in use" in (said := services.do("up"))
        assert "make up PLLAVA_MLFLOW_PORT=" in said
        assert services.code == 1
        assert services.processes() == []
    services.do("up")
    assert services.state(running)["type"] == "CRASHED"


def test_only_the_owner_reads_what_the_services_keep(services):
    assert (services.root / ".state").stat().st_mode & 0o777 == 0o700
    kept = [path for path in (services.root / ".state").rglob("*") if path.is_file() and path.suffix in (".db", ".log", ".sqlite")]
    assert {path.name for path in kept} >= {"mlflow.db", "prefect.db", "supervisor.log", "worker.log", "deployments.log"}
    assert [path for path in kept if path.stat().st_mode & 0o077] == []
    assert (services.root / "three").stat().st_mode & 0o777 == 0o666 & ~UMASK, "what a run writes is no secret"


def test_the_login_is_in_one_file_that_only_its_user_reads(services):
    """Not on a command line, in a log, in a record or in another file of the project; every service and run has worked with it."""
    file = services.root / LOGIN
    login = file.read_text()
    assert login.startswith("pllava:")
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = [login.partition(":")[2].encode(), services.login()["Authorization"].split()[1].encode()]
    for process in services.processes():
        assert login.partition(":")[2] not in " ".join(process.cmdline())
    said = services.do("up") + services.do("status")
    assert str(LOGIN) in said
    assert secrets[0].decode() not in said
    for path in services.root.rglob("*"):
        if path != file and path.is_file():
            words = path.read_bytes()
            assert not any(secret in words for secret in secrets), path
