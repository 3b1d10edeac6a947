"""A child process whose lines are streamed and whose whole tree dies with us."""

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pllava.train.launch import end_tree

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
    if process.poll() is None:
        end_tree(process.pid)
