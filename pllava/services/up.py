"""`make up`: start every service after the services it needs. At the end all services are up, or none, with the reason."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pllava.core import processes as demo_process
from pllava.core.errors import PllavaError
from pllava.core.files import state_folder
from pllava.core.params import load_params
from pllava.core.worktrees import tidy
from pllava.services import stack as stacks
from pllava.services import supervisor
from pllava.services.demo import REASON_FILE
from pllava.services.down import end_leftovers, stop_all
from pllava.services.health import NO_PROXY, answers, wait_until
from pllava.services.programs import POOL, Program, programs
from pllava.services.stack import HOST, LOGS, PORTS, STATE, Stack
from pllava.services.status import addresses

START_SECONDS = 180.0  # for one service to serve, on a busy machine
DEAD = ("EXITED", "FATAL", "UNKNOWN", "STOPPED")


def up(root: Path, say: Callable[[object], None]) -> str:
    """Start the services that do not run. Returns their addresses as text. Raises PllavaError: port in use, service does not start."""
    root = root.resolve()
    load_params(root / "params.yaml")
    state_folder(root / STATE)
    with FileLock(root / STATE / "stack.lock"):  # `up` and `down` never at the same time
        running = supervisor.connect(root)
        if running is not None:
            return _restart_dead(root, running, say)
        if ended := end_leftovers(root):
            say(f"ended {ended} process(es) of an earlier stack whose supervisor has died")
        tidy(root)
        stack = stacks.wanted(root)
        _require_ports(stack)
        stack.save()
        try:
            supervisor.start(stack)
            running = supervisor.connect(root)
            assert running is not None
            _start(stack, running, say)
        except BaseException:
            stop_all(root)
            raise
        return addresses(root)


def _restart_dead(root: Path, running: Any, say: Callable[[object], None]) -> str:
    """With a running supervisord: start again the services that it has given up."""
    stack = stacks.recorded(root)
    if stack is None:
        raise PllavaError(f"services run, but {root / stacks.RECORD} is gone. Run: make down, then make up")
    requested = {variable: int(os.environ[variable]) for variable, _ in PORTS.values() if os.environ.get(variable, "").isdigit()}
    for name, (variable, _) in PORTS.items():
        if variable in requested and requested[variable] != (port := getattr(stack, f"{name}_port")):
            raise PllavaError(f"already up, with {variable} {port}. For {requested[variable]}: make down, then make up")
    down = [name for name, info in supervisor.states(running).items() if info["statename"] in DEAD]
    if not down:
        return f"already up; nothing to do\n{addresses(root)}"
    _start(stack, running, say, down)
    return addresses(root)


def _start(stack: Stack, running: Any, say: Callable[[object], None], names: list[str] | None = None) -> None:
    """Start the services, side by side: Prefect and the demo need seconds, and MLflow's tables may have to be made. names: only these."""
    by_name = {program.name: program for program in programs(stack) if names is None or program.name in names}

    def start(name: str) -> None:
        if name in by_name:
            running.startProcess(name, False)

    def serves(name: str) -> None:
        if name in by_name:
            _wait(stack, running, by_name[name])
            say(f"{name}: {REASON_FILE.read_text()}" if name == "demo" and REASON_FILE.exists() else f"{name} serves")

    start("prefect")
    if not stack.mlflow_elsewhere:
        from pllava.tracking.store import migrate, setup

        records = os.environ.get("MLFLOW_BACKEND_STORE_URI", "")
        if not records:
            setup()  # several processes that open a fresh sqlite file at once would break it
        elif records.startswith("sqlite:///"):
            migrate(records)
    start("mlflow")
    serves("prefect")
    start("bridge")
    _run(stack, "deployments", "flows.deployments")
    say("deployments registered")
    start("worker")
    serves("mlflow")
    start("demo")
    if "bridge" in by_name:
        serves("bridge")
        _run(stack, "connect", "flows.connect", "--mlflow", stack.mlflow_url, "--prefect", stack.prefect_url, "--bridge", stack.bridge_url)
    serves("worker")
    serves("demo")


def _wait(stack: Stack, running: Any, program: Program) -> None:
    def alive() -> bool:
        return supervisor.states(running)[program.name]["statename"] not in DEAD

    def done() -> bool:
        if program.health:
            return answers(program.health)
        if program.name == "worker":
            return _worker_is_online(stack, supervisor.states(running)["worker"]["start"])
        recorded = demo_process.recorded()
        return (recorded is not None and recorded["state"] == "serving") or REASON_FILE.exists()

    if not wait_until(done, START_SECONDS, alive):
        state = supervisor.states(running)[program.name]["statename"].lower()
        raise PllavaError(f"{program.name} does not serve ({state}). {demo_process.end_of_log(_log(stack, program.name))}")


def _worker_is_online(stack: Stack, since: int) -> bool:
    """Has a worker sent a heartbeat since `since`, in seconds since 1970? For a while, the worker of an earlier stack looks alive."""
    login = base64.b64encode(stack.login()["PREFECT_API_AUTH_STRING"].encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    request = urllib.request.Request(f"{stack.prefect_url}/api/work_pools/{POOL}/workers/filter", data=b"{}", headers=headers)
    try:
        with NO_PROXY.open(request, timeout=10) as response:
            heartbeats = [datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() for worker in json.load(response)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(moment >= since for moment in heartbeats)


def _run(stack: Stack, name: str, module: str, *arguments: str) -> None:
    """Run a module of flows/ in a process of its own, and log its output. Raises PllavaError with the end of the log when it fails."""
    log = _log(stack, name)
    with log.open("wb") as file:
        log.chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=stack.root,
            env={**os.environ, **stack.environment(), **stack.login()},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise PllavaError(f"python -m {module} failed. {demo_process.end_of_log(_log(stack, name))}")


def _require_ports(stack: Stack) -> None:
    demo = demo_process.recorded()
    for name, (variable, _) in PORTS.items():
        port = getattr(stack, f"{name}_port")
        if name in ("mlflow", "bridge") and stack.mlflow_elsewhere:
            continue
        if name == "demo" and demo is not None:  # our own demo, started by `pllava deploy`: it stays
            if demo.get("port") == port:
                continue
            raise PllavaError(f"the demo runs already, on port {demo.get('port')}. For {port}: pllava stop, then make up {variable}={port}")
        demo_process.require_free_port(HOST, port, f"Take another one for {name}: make up {variable}=PORT")


def _log(stack: Stack, name: str) -> Path:
    return stack.root / LOGS / f"{name}.log"
