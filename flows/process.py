"""A child process whose lines are streamed and whose whole tree dies with us, also when we are killed (sentinel.py)."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

GRACE_SECONDS = 2.0  # between asking to end and ending; a cancelled run is gone within 5 s
KEPT_LINES = 30

_running: set[subprocess.Popen[bytes]] = set()
_refusing = False  # between `end_all(refuse=True)` and `accept`
_lock = threading.Lock()
_sentinel: subprocess.Popen[bytes] | None = None


def stream(command: list[str], cwd: Path, env: dict[str, str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command and pass on each line as it comes; (exit code, last lines).

    The child gets a session of its own, so that Ctrl-C reaches us alone and the tree is ended by us, in order.
    """
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with _lock:
        if _refusing:
            return -signal.SIGTERM, []
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
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
        _end([process])
        with _lock:
            _running.discard(process)
            _tell_sentinel("-", process)


def end_all(refuse: bool = False) -> None:
    """End every tree that is still running: for the moment a flow is cancelled, whose tasks wait in other threads.

    Also those of a process pool of ours. refuse: until `accept`, what a queue of tasks would start next is ended before it begins.
    """
    global _refusing
    with _lock:
        _refusing = _refusing or refuse
        processes = list(_running)
    for worker in multiprocessing.active_children():
        worker.kill()  # its sentinel ends what it started
    _end(processes)


def accept() -> None:
    """The cancelled flow is over: another one of this process may start what it needs."""
    global _refusing
    with _lock:
        _refusing = False


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


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes and all below them to end, all at once, and end what has not after the grace time.

    Only the Popen itself collects its exit code: psutil would take it away, and a killed stage would look like one that succeeded.
    """
    left = [process for process in processes if process.poll() is None]
    below: list[psutil.Process] = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            below += psutil.Process(process.pid).children(recursive=True)
    for end in ("terminate", "kill"):
        for one in (*below, *left):
            with suppress(psutil.NoSuchProcess):
                getattr(one, end)()  # a Popen that has ended does nothing
        deadline = time.monotonic() + GRACE_SECONDS
        _, below = psutil.wait_procs(below, timeout=GRACE_SECONDS if left else 0)
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
