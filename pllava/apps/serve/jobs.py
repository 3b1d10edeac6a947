"""A queue of requests in front of one thread, and the events of each request."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pllava.apps.serve.errors import ApiError, busy
from pllava.core.errors import PllavaError

Event = tuple[str, Any]  # ("ready", None), ("piece", text), ("done", answer), ("error", exception)


class Job:
    """One request's answer. `abandon()` takes the job out of the queue, or stops the model in the middle of a token."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancel = threading.Event()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.future: Future[None] | None = None
        self._loop = loop

    def run(self, work: Callable[[threading.Event], Iterator[Event]]) -> None:
        """Put the events of `work` into the queue; an exception becomes an "error" event."""
        try:
            for event in work(self.cancel):
                self._put(event)
        except BaseException as error:
            if not isinstance(error, ApiError | PllavaError):
                logging.getLogger("pllava").exception("a request failed")
            self._put(("error", error.with_traceback(None)))

    def _put(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def abandon(self) -> None:
        self.cancel.set()
        if self.future is not None:
            self.future.cancel()


class JobQueue:
    """A bounded queue in front of one thread: a model answers one request at a time."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.taken = 0  # running and waiting
        self.running = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answer")
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._average = 2.0  # seconds of a job, a moving average

    @property
    def waiting(self) -> int:
        """Number of jobs behind the running one."""
        return max(0, self.taken - self.running)

    def check(self) -> None:
        """Raises ApiError 429 with Retry-After when `max_waiting` jobs wait already."""
        if self.taken > self.max_waiting:
            seconds = max(1, math.ceil(self._average * self.taken))
            raise busy(f"{self.taken} requests are waiting or answered; try again in about {seconds} s", seconds, "queue_full")

    def submit(self, work: Callable[[threading.Event], Iterator[Event]]) -> Job:
        """Queue a job. Raises ApiError as `check` does."""
        with self._lock:
            self.check()
            self.taken += 1
        job = Job(asyncio.get_running_loop())
        self._jobs.add(job)
        job.future = self._pool.submit(self._run, job, work)
        job.future.add_done_callback(lambda _: self._forget(job))
        return job

    def _run(self, job: Job, work: Callable[[threading.Event], Iterator[Event]]) -> None:
        began = time.monotonic()
        self.running += 1
        try:
            job.run(work)
        finally:
            self.running -= 1
            self._average += 0.2 * (time.monotonic() - began - self._average)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self.taken -= 1
        self._jobs.discard(job)

    def close(self) -> None:
        """Abandon all jobs and wait for the thread."""
        for job in list(self._jobs):
            job.abandon()
        self._pool.shutdown(wait=True, cancel_futures=True)
