"""Signals that end a training. SIGTERM (from DVC, Prefect or a scheduler) and Ctrl-C: it finishes its step, saves a checkpoint and exits.

A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 143  # exit code of a training that a signal stopped and that saved a checkpoint: 128 + SIGTERM, as a shell reports it


class Stopped(KeyboardInterrupt):
    """A signal stopped the training. Its checkpoint is saved, so the training can resume."""


class StopRequest:
    """`made` is True once SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listen(self) -> Iterator[StopRequest]:
        """Handle SIGTERM and SIGINT until the block ends. Outside the main thread, Python allows no handlers: then it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.made:
            os.write(2, b"told to end: after this step a checkpoint is saved\n")
        self.made = True


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT until the block ends. Processes started in it inherit the block, until they call `obey_only_parent`."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def obey_only_parent(worker: int) -> None:
    """Called in a data-loading worker (`worker_init_fn`): ignore SIGINT, and obey SIGTERM only when the training process sent it.

    A scheduler signals the whole process group. If a worker died of the signal, torch would end the training before it saves a checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender_known = hasattr(signal, "sigwaitinfo")  # missing on macOS: there any SIGTERM ends the worker
    signal.pthread_sigmask(signal.SIG_BLOCK if sender_known else signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sender_known:
        threading.Thread(target=_end_on_sigterm_of_parent, args=(os.getppid(),), daemon=True).start()


def _end_on_sigterm_of_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def end_with_parent() -> None:
    """End this process when its parent dies, also at a kill -9 of the parent. Called in the child.

    A worker of multiprocessing ends at once, on every system. Any other process gets SIGTERM from the kernel, on Linux alone.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
        return
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block on SIGTERM (of DVC, Prefect, a service manager). Outside the main thread it does nothing."""
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
