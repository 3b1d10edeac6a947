"""The one background process that serves the page: its record, its end, and whose port it is."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json
from pllava.core.signals import end_with_parent, terminate_as_interrupt

HOME = Path(".state/demo")  # under the project folder
RECORD = HOME / "demo.json"
LOG = Path(".state/logs/page.log")
PATIENCE = 10  # seconds between asking a process to end and ending it


def record(process: psutil.Process, **facts: Any) -> dict[str, Any]:
    """Write down which process is ours. A pid alone may be someone else's by now; with its creation time it is not."""
    entry = {"pid": process.pid, "created": process.create_time(), **facts}
    write_json(RECORD, entry)
    return entry


def recorded() -> dict[str, Any] | None:
    """The record of a process that is still running, else None."""
    if not RECORD.is_file():
        return None
    entry = read_json(RECORD)
    return entry if _process(entry) is not None else None


def stop() -> int | None:
    """End the recorded process and what it started; return its pid, or None when there was nothing to end."""
    entry = recorded()
    process = _process(entry) if entry else None
    if entry is not None and process is not None:
        family = [process, *process.children(recursive=True)]
        for how in ("terminate", "kill"):
            for member in family:
                _signal(member, how)
            if _gone(family):
                break
        if "host" in entry:
            _released(entry["host"], entry["port"])
    RECORD.unlink(missing_ok=True)
    return process.pid if process else None


def run_tree(words: list[str], env: Mapping[str, str], patience: float = PATIENCE) -> int:
    """Run a command to its end and return its exit code. What it started ends with it when this process is told to end or dies.

    patience: seconds between asking the processes to end and killing them.
    """
    with terminate_as_interrupt(), subprocess.Popen(words, env=dict(env), preexec_fn=end_with_parent) as child:
        try:
            return child.wait()
        except BaseException:
            end_tree(child.pid, patience)
            raise


def end_tree(pid: int, patience: float = PATIENCE) -> None:
    """End a process and all it started: ask, wait, then kill what is left."""
    try:
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for end in ("terminate", "kill"):
        for process in processes:
            if process.is_running():
                getattr(process, end)()
        _, processes = psutil.wait_procs(processes, timeout=patience)


def require_free_port(host: str, port: int, next_step: str) -> None:
    """Raise PllavaError when the port cannot be listened on, naming who holds it where the system tells."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PllavaError(f"cannot listen on {host}:{port}: {error.strerror}. {next_step}") from None
    raise PllavaError(f"port {port} on {host} is in use{_holder(port)}. {next_step}")


def log_tail(lines: int = 15) -> str:
    """The end of the process's log."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:]) if LOG.is_file() else "(no log)"


def _process(entry: Mapping[str, Any]) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(entry["pid"])
        if abs(process.create_time() - entry["created"]) < 1 and _runs(process):
            return process
    return None


def _signal(process: psutil.Process, how: str) -> None:
    with suppress(psutil.NoSuchProcess):  # it ended by itself, which is what was wanted
        getattr(process, how)()


def _gone(family: list[psutil.Process]) -> bool:
    """Wait a while for all to end. One that ended but was not collected by a living parent (a flow's process) has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not any(map(_runs, family)):
            return True
        time.sleep(0.05)
    return False


def _released(host: str, port: int) -> None:
    """Wait a moment for the port: the main thread of an ended process can be gone before the last one closes its sockets."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _holder(port: int) -> str:
    """ ", held by process 12 (python -m http.server)", as far as the system lets us see."""
    try:
        pids = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN]
        if not pids or pids[0] is None:
            return ""
        process = psutil.Process(pids[0])
        yours = " of yours" if process.uids().real == os.getuid() else ""
        return f", held by process {process.pid}{yours} ({' '.join(process.cmdline())[:80]})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
