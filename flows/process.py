"""A child process whose lines are streamed and whose whole tree dies with us, also when we are killed (sentinel.py)."""

import atexit
import multiprocessing
import os
import subprocess
import sys
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
_sentinel: subprocess.Popen[bytes] | None = None


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
        _tell_sentinel("+", process)
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
            _tell_sentinel("-", process)


def end_all() -> None:
    """End every tree that is still running: for the moment a flow is cancelled, whose tasks wait in other threads."""
    with _lock:
        processes = list(_running)
    for process in processes:
        _end(process)


def _tell_sentinel(sign: str, process: subprocess.Popen[bytes]) -> None:
    """Start the sentinel with the first child, or again when it was ended."""
    global _sentinel
    news = [f"{sign}{process.pid}\n"]
    if _sentinel is None or _sentinel.poll() is not None:
        if _sentinel is None:
            atexit.register(_dismiss_sentinel)
            _watch_parent()
        _sentinel = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("sentinel.py"))],
            stdin=subprocess.PIPE,  # no other child inherits our end: it closes when we die, however
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=os.name == "posix",
        )
        news = [f"+{running.pid}\n" for running in _running]
    assert _sentinel.stdin is not None
    with suppress(BrokenPipeError):  # ended this very moment
        _sentinel.stdin.write("".join(news).encode())
        _sentinel.stdin.flush()


def _dismiss_sentinel() -> None:
    if _sentinel is not None and _sentinel.stdin is not None:
        with suppress(BrokenPipeError):
            _sentinel.stdin.close()
        _sentinel.wait()


def _watch_parent() -> None:
    """A worker of a process pool does not notice that the process it works for was killed, and would work on."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)  # the sentinel does the rest

        threading.Thread(target=follow, daemon=True).start()


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
