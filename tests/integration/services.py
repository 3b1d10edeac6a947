"""A copy of the project with services on ports of their own. Its stages are trivial; DVC, git, Prefect and MLflow are real."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pllava.services.stack import LOGIN
from pllava.tracking import store

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
        names = ("MLFLOW", "PREFECT", "DEMO", "BRIDGE")
        ports = {f"PLLAVA_{name}_PORT": str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
        self.env = {**inherited, **ports, "PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1", **environment}
        self.root = root
        self.mlflow = f"http://127.0.0.1:{ports['PLLAVA_MLFLOW_PORT']}"
        self.demo = f"http://127.0.0.1:{ports['PLLAVA_DEMO_PORT']}"
        self.bridge = f"http://127.0.0.1:{ports['PLLAVA_BRIDGE_PORT']}"
        self.prefect = f"http://127.0.0.1:{ports['PLLAVA_PREFECT_PORT']}"
        self.api = f"{self.prefect}/api"

    def do(self, *command, module="pllava.cli"):
        done = subprocess.run([sys.executable, "-m", module, *command], cwd=self.root, env=self.env, capture_output=True, text=True)
        self.code = done.returncode
        return done.stdout + done.stderr

    def login(self):
        """Headers for Prefect's API."""
        return {"Authorization": f"Basic {base64.b64encode((self.root / LOGIN).read_bytes()).decode()}"}

    def call(self, path, body=None, base=None):
        """(status, answer) of GET, or of POST when there is a body. Asked again when busy, as Prefect's own client does."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | ({} if base else self.login())
        request = urllib.request.Request(f"{base or self.api}{path}", data, headers)
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    text = response.read()
                    return response.status, json.loads(text) if text.startswith((b"{", b"[")) else text
            except urllib.error.HTTPError as error:
                status, answer = error.code, error.read().decode()
            if status != 503:
                break
            time.sleep(1)
        return status, answer

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

        assert until(ended, seconds, pause=0.5), f"still {self.state(run)}"
        return self.state(run)

    def tasks(self, run, expected=None):
        """{task: state name}. The server may record tasks after the end of their run: those expected are waited for."""

        def states():
            tasks = self.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[1]
            return {task["name"]: task["state_name"] for task in tasks}

        until(lambda: states().items() >= (expected or {}).items(), 30)
        return states()

    def running(self, *command):
        """Those whose command line ends so."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if tuple(process.cmdline()[-len(command) :]) == command:
                    found.append(process)
        return found

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


@contextmanager
def down_at_the_end(services):
    """Stop the services, also when this process is killed: pytest-xdist gives a worker five seconds after Ctrl-C."""
    code = "import subprocess, sys; sys.stdin.read(); subprocess.run([sys.executable, '-m', 'pllava.cli', 'down'])"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    watcher = subprocess.Popen([sys.executable, "-c", code], cwd=services.root, env=services.env, stdin=subprocess.PIPE, **quiet)
    try:
        yield
    finally:
        watcher.stdin.close()  # the end of this process closes it as well
        watcher.wait()


def until(done, seconds=60, pause=0.2):
    """The first true result of `done`, which is asked every `pause` seconds; after `seconds` the last result."""
    deadline = time.monotonic() + seconds
    while not (result := done()) and time.monotonic() < deadline:
        time.sleep(pause)
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
