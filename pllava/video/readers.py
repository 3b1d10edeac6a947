"""Several clips read at once, ahead of their use, each under a time limit.

    with Readers(workers=2, time_limit=60) as readers:
        for path, video in readers.ahead(paths):    # in order; video is VideoFrames, or the PllavaError that says why not
            ...

Each worker is a fresh process (a fork of one with decoder or torch threads can hang). A clip at which the decoder hangs, dies or takes
longer than the limit costs that process and is reported; the other clips are not touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.child import Child, Gone
from pllava.video.limits import Limits
from pllava.video.pyav import MEND
from pllava.video.reader import VideoFrames

TIME_LIMIT = 120.0  # seconds for the frames of one clip


class Readers:
    """workers: processes. time_limit: seconds a clip may take. picture: (short side, width, height) of the tower's pictures: frames come
    as `pllava.video.aspect.tower_pictures` makes them, which is done in the workers and takes far less memory; None: frames as they are.
    """

    def __init__(
        self,
        workers: int = 2,
        time_limit: float = TIME_LIMIT,
        limits: Limits | None = None,
        picture: tuple[int, int, int] | None = None,
    ) -> None:
        if workers < 1 or not time_limit > 0:
            raise PllavaError(f"{workers} reader(s) with {time_limit} s a clip: need at least 1, and more than 0 s")
        self.workers, self.time_limit, self.limits, self.picture = workers, time_limit, limits or Limits(), picture
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="reader")
        self._idle: deque[Child] = deque()
        self._all: set[Child] = set()
        self._closed = False

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, also one that is at work."""
        self._closed = True
        for child in list(self._all):
            child.end()
        self._threads.shutdown(cancel_futures=True)
        for child in list(self._all):  # one that had just been started
            child.end()

    def read(self, path: str | Path, num_frames: int = 16, sampling: str = "eval", **arguments: Any) -> VideoFrames:
        """As `read_video`, without `rng` and `limits`. Raises PllavaError, also for a clip that takes too long or kills the decoder."""
        job = {"path": str(path), "num_frames": num_frames, "sampling": sampling, "picture": self.picture, "limits": asdict(self.limits)}
        try:
            child = self._idle.pop()
        except IndexError:  # not asked before: another thread may take the last one in between
            child = Child("pllava.video.worker")
        self._all.add(child)
        if self._closed:
            child.end()
        try:
            [(said, frames)] = child.ask(job | arguments, self.time_limit)
        except Gone as error:
            self._all.discard(child)
            raise PllavaError(f"{path}: {error}. {MEND}") from None
        self._idle.append(child)
        if frames is None:
            raise PllavaError(said["error"])
        return VideoFrames(frames, np.asarray(said["video"].pop("times")), **said["video"])

    def ahead(
        self, paths: Iterable[str | Path], num_frames: int = 16, sampling: str = "eval", window: int | None = None
    ) -> Iterator[tuple[str | Path, VideoFrames | PllavaError]]:
        """Each path with its frames, in order, while up to `window` clips (two a worker by default) are being read or wait to be used."""
        window = window or 2 * self.workers
        waiting: deque[tuple[str | Path, Future[VideoFrames]]] = deque()
        for path in paths:
            waiting.append((path, self._threads.submit(self.read, path, num_frames, sampling)))
            if len(waiting) > window:
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    @staticmethod
    def _result(path: str | Path, future: Future[VideoFrames]) -> tuple[str | Path, VideoFrames | PllavaError]:
        try:
            return path, future.result()
        except PllavaError as error:
            return path, error
