"""Being told to end: SIGTERM (DVC, Prefect, a scheduler) and Ctrl-C let the step finish, save a checkpoint and leave.

A second Ctrl-C ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 143  # of a training that was told to end and saved: 128 + SIGTERM, as a shell reports it


class Stopped(KeyboardInterrupt):
    """The training was told to end, and has saved what it needs to go on."""


class StopRequest:
    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listen(self) -> Iterator[StopRequest]:
        """Take the signals until the block ends. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.made:
            os.write(2, b"told to end: after this step a checkpoint is saved\n")
        self.made = True


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT inside the block. A process started inside it inherits the block; its `leave_signals_to_parent` ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(worker: int) -> None:
    """Let a decoding worker end only when its parent, the training, ends it. Call it in the worker, with the worker's number.

    A signal to the process group reaches the workers too. A worker that dies of it makes torch end the training before it has saved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender_is_known = hasattr(signal, "sigwaitinfo")  # macOS lacks it: there SIGTERM ends a worker
    signal.pthread_sigmask(signal.SIG_BLOCK if sender_is_known else signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sender_is_known:
        threading.Thread(target=_end_when_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def end_with_parent() -> None:
    """Ask the kernel (Linux) to end this process when the one that started it dies: a training must not go on unseen after a kill -9."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM (what DVC, Prefect and a service manager send) ends the work like Ctrl-C. Only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not cut short the wait for a checkpoint
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
