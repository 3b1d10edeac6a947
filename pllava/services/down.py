"""`make down`: stop the workers, then the servers they report to, then every other process of this project's stack."""

from __future__ import annotations

import os
import xmlrpc.client
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock

from pllava.core import processes as demo_process
from pllava.services import supervisor
from pllava.services.stack import MARK, RECORD, STATE

STOP_SECONDS = 15.0  # for a process to end after SIGTERM
PATIENCE = 5.0  # the same, for a process whose supervisor has died


def down(root: Path) -> str:
    """Stop all processes of this project; the files in .state stay. Returns a sentence that names the stopped services."""
    root = root.resolve()
    if not (root / STATE).is_dir():
        return "nothing of this project is running"
    with FileLock(root / STATE / "stack.lock"):
        stopped = stop_all(root)
    return f"stopped: {', '.join(stopped)}" if stopped else "nothing of this project is running"


def stop_all(root: Path) -> list[str]:
    """Stop all processes of the stack. Returns the names of those that ran. The caller holds stack.lock."""
    stopped: list[str] = []
    running = supervisor.connect(root)
    if running is not None:
        with suppress(xmlrpc.client.Error, OSError, psutil.Error):  # supervisord may die meanwhile; `end_leftovers` ends its services
            states = supervisor.states(running)
            for info in sorted(states.values(), key=lambda info: info["group"] != "worker"):
                if info["statename"] in ("RUNNING", "STARTING", "BACKOFF", "STOPPING"):
                    if info["name"] == "worker" and info["pid"]:
                        _end_runs(psutil.Process(info["pid"]))
                    running.stopProcess(info["name"])
                    stopped.append(info["name"])
            daemon = psutil.Process(running.getPID())
            running.shutdown()
            daemon.wait(STOP_SECONDS)
    if demo_process.stop() is not None and "demo" not in stopped:
        stopped.append("demo")
    if ended := end_leftovers(root):
        stopped.append(f"{ended} process(es) that were left")
    (root / RECORD).unlink(missing_ok=True)
    supervisor.socket_path(root).unlink(missing_ok=True)
    return stopped


def end_leftovers(root: Path) -> int:
    """End the processes with the mark of this project's stack in their environment, in whatever session. Returns their number."""
    return demo_process.end(partial(_marked, root), PATIENCE)


def _marked(root: Path) -> list[psutil.Process]:
    """All marked processes except this one and its ancestors: a run of the stack may call this function."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # a process of another user, or one that has ended
            if process.pid not in own and process.environ().get(MARK) == str(root):
                marked.append(process)
    return marked


def _end_runs(worker: psutil.Process) -> None:
    """Send SIGTERM to the runs of a worker: they end their stages and report a crash. A worker that ends would kill its runs instead."""
    runs = worker.children()
    for run in runs:
        with suppress(psutil.Error):
            run.terminate()
    psutil.wait_procs(runs, timeout=STOP_SECONDS)
