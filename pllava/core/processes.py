"""Processes: the one way to end them, the record of the background process that serves the demo page, and free ports."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
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
PATIENCE = 10  # seconds between SIGTERM and SIGKILL
KILLED_SECONDS = 2.0  # for the system to remove a killed process
POLL = 0.05  # seconds


def record(process: psutil.Process, **facts: Any) -> dict[str, Any]:
    """Write the process's pid, its creation time and `facts` to RECORD; returns the record. The creation time reveals a reused pid."""
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
    """End the recorded process and its children; returns its pid, or None when no recorded process runs."""
    entry = recorded()
    process = _process(entry) if entry else None
    if entry is not None and process is not None:
        end_tree(process.pid)
        if "host" in entry:
            _wait_until_port_free(entry["host"], entry["port"])
    RECORD.unlink(missing_ok=True)
    return process.pid if process else None


def run_tree(words: list[str], env: Mapping[str, str], patience: float = PATIENCE) -> int:
    """Run a command to its end; returns its exit code. When this process gets SIGTERM or Ctrl-C, the command and its children end too.

    patience: seconds between SIGTERM and SIGKILL.
    """
    with terminate_as_interrupt(), subprocess.Popen(words, env=dict(env), preexec_fn=end_with_parent) as child:
        try:
            return child.wait()
        except BaseException:
            end_tree(child.pid, patience)
            raise


def end_tree(pid: int, patience: float = PATIENCE) -> None:
    """End a process and its children: SIGTERM, wait up to `patience` seconds, then SIGKILL for those that still run."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        tree = [*process.children(recursive=True), process]
        end(lambda: tree, patience)


def end(find: Callable[[], Iterable[psutil.Process]], patience: float = PATIENCE) -> int:
    """End the processes that `find` returns: SIGTERM, wait up to `patience` seconds or until Ctrl-C, then SIGKILL.

    `find` is called before each signal, so it may return processes that began meanwhile. Returns the number of processes. Exit codes are
    left to the parents: a process that its parent has not collected counts as ended.
    """
    ended: set[int] = set()
    for method, seconds in (("terminate", patience), ("kill", KILLED_SECONDS), ("kill", KILLED_SECONDS)):
        if not (processes := [process for process in find() if _runs(process)]):
            break
        for process in processes:
            with suppress(psutil.Error):
                getattr(process, method)()
        ended |= {process.pid for process in processes}
        deadline = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            while any(map(_runs, processes)) and time.monotonic() < deadline:
                time.sleep(POLL)
    return len(ended)


def family(leaders: Mapping[int, psutil.Process]) -> list[psutil.Process]:
    """The leaders ({pid: process}), their descendants, and the orphans in a session that a leader leads; never this process."""
    processes: dict[int, psutil.Process] = {}
    for leader in leaders.values():
        with suppress(psutil.Error):
            processes |= {process.pid: process for process in [leader, *leader.children(recursive=True)]}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            session = leaders.get(os.getsid(process.pid))
            if session is not None and process.create_time() >= session.create_time():
                processes.setdefault(process.pid, process)
    return [process for process in processes.values() if process.pid != os.getpid()]


def require_free_port(host: str, port: int, next_step: str) -> None:
    """Raise PllavaError when no server can listen on the port. The error names the process that holds it, if the system shows it."""
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


def end_of_log(log: Path = LOG, lines: int = 15) -> str:
    """The last lines of a log, and its name, for an error."""
    text = "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else "(no log)"
    return f"The end of {log}:\n{text}"


def _process(entry: Mapping[str, Any]) -> psutil.Process | None:
    """The running process of a record; None when it has ended, or when its pid now belongs to another process."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(entry["pid"])
        if abs(process.create_time() - entry["created"]) < 1 and _runs(process):
            return process
    return None


def _wait_until_port_free(host: str, port: int) -> None:
    """Wait up to PATIENCE seconds until the port is closed: other threads can keep it open after the main thread of a process has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return
        time.sleep(POLL)


def _runs(process: psutil.Process) -> bool:
    """Whether the process runs and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _holder(port: int) -> str:
    """ ", held by process 12 (python -m http.server)", or "" where the system does not show it."""
    try:
        pids = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN]
        if not pids or pids[0] is None:
            return ""
        process = psutil.Process(pids[0])
        yours = " of yours" if process.uids().real == os.getuid() else ""
        return f", held by process {process.pid}{yours} ({' '.join(process.cmdline())[:80]})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
