"""Run a command and pass its lines on: `stream`. Its process tree ends with this process, even when this one is killed (sentinel.py)."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pllava.core.errors import PllavaError
from pllava.core.params import Run, load_params
from pllava.core.processes import KILLED_SECONDS, end, family
from pllava.core.signals import end_with_parent

ROOT = Path(__file__).resolve().parents[2]
KEPT_LINES = 30

_running: dict[subprocess.Popen[bytes], tuple[psutil.Process, float]] = {}  # value: (process, seconds it may take to end after SIGTERM)
_refusing = False  # True between `end_all(refuse=True)` and `accept`: `stream` starts nothing
_lock = threading.Lock()
_sentinel: subprocess.Popen[bytes] | None = None


def stream(command: list[str], cwd: Path, env: dict[str, str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command and call `say` with each line of its output. Returns (exit code, the last KEPT_LINES lines).

    The child gets a session of its own: Ctrl-C reaches this process alone, and this process ends the child's tree in order.
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
        child = _running[process] = psutil.Process(process.pid), patience  # exists, at least as a zombie: only this process collects it
        _tell_sentinel("+", process)
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            # A progress bar redraws its line with \r: keep the last version of the line.
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
    """End every process tree that `stream` has started, and the workers of this process's pools. Call it when a flow is cancelled.

    The tasks of a cancelled flow wait in other threads, where no signal arrives. refuse: until `accept` is called, `stream` starts no
    process and returns the exit code of SIGTERM.
    """
    global _refusing
    with _lock:
        _refusing = _refusing or refuse
        processes = dict(_running)
    for worker in multiprocessing.active_children():
        worker.kill()  # the worker's own sentinel ends the worker's children
    with _sigterm_ignored():
        _end(processes)


def accept() -> None:
    """Let `stream` start processes again. Call it when the cancelled flow is over: this process may run another flow."""
    global _refusing
    with _lock:
        _refusing = False


def _tell_sentinel(sign: str, process: subprocess.Popen[bytes]) -> None:
    """Tell the sentinel that a child has begun ("+") or ended ("-"). Starts the sentinel at the first child, and again if it has died.

    A new sentinel gets all running children.
    """
    global _sentinel
    messages = [f"{sign}{process.pid} {_running[process][1]}\n" if sign == "+" else f"-{process.pid}\n"]
    if _sentinel is None or _sentinel.poll() is not None:
        if _sentinel is None:
            atexit.register(_dismiss_sentinel)
            if multiprocessing.parent_process() is not None:  # a worker of a process pool
                end_with_parent()  # the sentinel ends the children
        _sentinel = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("sentinel.py"))],
            stdin=subprocess.PIPE,  # no other child inherits our end of the pipe, so it closes whenever we die
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
            start_new_session=os.name == "posix",
        )
        messages = [f"+{running.pid} {patience}\n" for running, (_, patience) in _running.items()]
    assert _sentinel.stdin is not None
    with suppress(BrokenPipeError):  # the sentinel ended just now
        _sentinel.stdin.write("".join(messages).encode())
        _sentinel.stdin.flush()


def _dismiss_sentinel() -> None:
    if _sentinel is not None and _sentinel.stdin is not None:
        with suppress(BrokenPipeError):
            _sentinel.stdin.close()
        _sentinel.wait()


def _patience(folder: Path) -> float:
    """run.stop_seconds of the folder's params.yaml, in seconds."""
    try:
        return load_params(folder / "params.yaml").run.stop_seconds
    except PllavaError:  # no params.yaml, or an invalid one, which the command itself refuses
        return Run().stop_seconds


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    """Ignore SIGTERM during the block. A second SIGTERM would end this process before its children have ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _end(processes: dict[subprocess.Popen[bytes], tuple[psutil.Process, float]]) -> None:
    """End the processes and all of their sessions at once, after the longest of their patiences. The Popen collects the exit code."""
    leaders = {process.pid: leader for process, (leader, _) in processes.items()}
    end(lambda: family(leaders), max((seconds for _, seconds in processes.values()), default=0.0))
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_SECONDS)
