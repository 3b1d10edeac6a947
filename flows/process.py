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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows.sentinel import KILLED_SECONDS, family
from pllava.core.errors import PllavaError
from pllava.core.params import Run, load_params

KEPT_LINES = 30

_running: dict[subprocess.Popen[bytes], tuple[psutil.Process, float]] = {}  # and how long each may take to end when it is asked to
_refusing = False  # between `end_all(refuse=True)` and `accept`
_lock = threading.Lock()
_sentinel: subprocess.Popen[bytes] | None = None


def stream(command: list[str], cwd: Path, env: dict[str, str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command and pass on each line as it comes; (exit code, last lines).

    The child gets a session of its own, so that Ctrl-C reaches us alone and the tree is ended by us, in order.
    """
    patience = _patience(cwd)
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
        child = _running[process] = psutil.Process(process.pid), patience  # at least a zombie: only we collect it
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
    except BaseException:
        _end({process: child})
        raise
    finally:
        with _lock:
            _running.pop(process, None)
            _tell_sentinel("-", process)


def end_all(refuse: bool = False) -> None:
    """End every tree that is still running: for the moment a flow is cancelled, whose tasks wait in other threads.

    Also those of a process pool of ours. refuse: until `accept`, what a queue of tasks would start next is ended before it begins.
    """
    global _refusing
    with _lock:
        _refusing = _refusing or refuse
        processes = dict(_running)
    for worker in multiprocessing.active_children():
        worker.kill()  # its sentinel ends what it started
    with _told_once():
        _end(processes)


def accept() -> None:
    """The cancelled flow is over: another one of this process may start what it needs."""
    global _refusing
    with _lock:
        _refusing = False


def _tell_sentinel(sign: str, process: subprocess.Popen[bytes]) -> None:
    """Start the sentinel with the first child, or again when it was ended."""
    global _sentinel
    news = [f"{sign}{process.pid} {_running[process][1]}\n" if sign == "+" else f"-{process.pid}\n"]
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
        news = [f"+{running.pid} {patience}\n" for running, (_, patience) in _running.items()]
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


def _patience(folder: Path) -> float:
    """run.stop_seconds of the params.yaml there."""
    try:
        return load_params(folder / "params.yaml").run.stop_seconds
    except PllavaError:  # none there, or one that the command itself will refuse
        return Run().stop_seconds


@contextmanager
def _told_once() -> Iterator[None]:
    """Who asks us to end may ask again: we stay until what we wait for has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _end(processes: dict[subprocess.Popen[bytes], tuple[psutil.Process, float]]) -> None:
    """Ask processes and all of their sessions to end, all at once, and end what has not after the longest of their patience, or at Ctrl-C.

    Only the Popen itself collects its exit code: psutil would take it away, and a killed stage would look like one that succeeded.
    """
    leaders = {process.pid: leader for process, (leader, _) in processes.items()}
    patience = max((seconds for _, seconds in processes.values()), default=0.0)
    for end, seconds in (("terminate", patience), ("kill", KILLED_SECONDS)):
        below = [one for one in family(leaders) if one.pid not in leaders]
        for one in (*below, *processes):
            with suppress(psutil.NoSuchProcess):
                getattr(one, end)()  # a Popen that has ended does nothing
        deadline = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            psutil.wait_procs(below, timeout=seconds)
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
