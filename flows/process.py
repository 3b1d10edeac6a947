"""A child process whose lines are streamed and whose whole tree dies with us."""

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

GRACE_SECONDS = 2.0  # between asking to end and ending; a cancelled run is gone within 5 s
KEPT_LINES = 30

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


def stream(command: list[str], cwd: Path, env: dict[str, str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command and pass on each line as it comes; (exit code, last lines).

    The child gets a session of its own, so that Ctrl-C reaches us alone and the tree is ended by us, in order.
    """
    last: deque[str] = deque(maxlen=KEPT_LINES)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=os.name == "posix",
    )
    with _lock:
        _running.add(process)
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            # A progress bar redraws its line with \r: keep what it showed last.
            line = raw.decode(errors="replace").rstrip().split("\r")[-1].rstrip()
            if line:
                last.append(line)
                say(line)
        return process.wait(), list(last)
    finally:
        _end(process)
        with _lock:
            _running.discard(process)


def end_all() -> None:
    """End every tree that is still running: for the moment a flow is cancelled, whose tasks wait in other threads."""
    with _lock:
        processes = list(_running)
    for process in processes:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and all below it to end, and end what has not after the grace time.

    Only `process` itself collects its exit code: psutil would take it away, and a killed stage would look like one that succeeded.
    """
    if process.poll() is not None:
        return
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for end in ("terminate", "kill"):
        for descendant in below:
            with suppress(psutil.NoSuchProcess):
                getattr(descendant, end)()
        getattr(process, end)()  # does nothing when it has ended
        _, below = psutil.wait_procs(below, timeout=GRACE_SECONDS)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
