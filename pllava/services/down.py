"""`make down`: workers first, then the servers they report to; in the end no process of this project's stack is left."""

from __future__ import annotations

import xmlrpc.client
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock

from pllava.core import processes as demo_process
from pllava.services import leftovers, supervisor
from pllava.services.stack import RECORD, STATE

LAST_WORDS = 15.0  # seconds for a process to end once it was told to


def down(root: Path) -> str:
    """Stop everything of this project; what is kept in .state stays."""
    root = root.resolve()
    if not (root / STATE).is_dir():
        return "nothing of this project is running"
    with FileLock(root / STATE / "stack.lock"):
        stopped = stop_all(root)
    return f"stopped: {', '.join(stopped)}" if stopped else "nothing of this project is running"


def stop_all(root: Path) -> list[str]:
    """Names of what was running."""
    stopped: list[str] = []
    running = supervisor.connect(root)
    if running is not None:
        with suppress(xmlrpc.client.Error, OSError, psutil.Error):  # it dies while we talk: what it leaves is ended below
            found = supervisor.states(running)
            for info in sorted(found.values(), key=lambda info: info["group"] != "worker"):
                if info["statename"] in ("RUNNING", "STARTING", "BACKOFF", "STOPPING"):
                    if info["name"] == "worker" and info["pid"]:
                        _end_runs(psutil.Process(info["pid"]))
                    running.stopProcess(info["name"])
                    stopped.append(info["name"])
            daemon = psutil.Process(running.getPID())
            running.shutdown()
            daemon.wait(LAST_WORDS)
    if demo_process.stop() is not None and "demo" not in stopped:
        stopped.append("demo")
    if ended := leftovers.end(root):
        stopped.append(f"{len(ended)} process(es) that were left")
    (root / RECORD).unlink(missing_ok=True)
    supervisor.socket_path(root).unlink(missing_ok=True)
    return stopped


def _end_runs(worker: psutil.Process) -> None:
    """A worker that ends kills its runs at once. Told before it, a run ends its stage, tidies up and reports that it crashed."""
    runs = worker.children()
    for run in runs:
        with suppress(psutil.Error):
            run.terminate()
    psutil.wait_procs(runs, timeout=LAST_WORDS)
