"""Processes that read clips, for every command. A clip that hangs, crashes or exhausts its process raises an error for this clip alone.

    with Readers(workers=2, time_limit=60) as readers:
        for path, video in readers.ahead(paths):    # in order; video is VideoFrames, or the PllavaError of an unreadable clip
            ...

Each worker is a fresh process, because a fork of a process with decoder or torch threads can hang. Later clips and other Readers use the
same workers; a worker ends with the process that started it. When a decoder hangs, dies or exceeds the time limit, its worker ends and
the clip is reported. Other clips are not affected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.child import Child, Gone, NoReader
from pllava.video.frames import VideoFrames, VideoInfo
from pllava.video.limits import Limits, time_bound
from pllava.video.presentation import MEND, Header

WORKER = "pllava.video.worker"
TIME_LIMIT = 120.0  # seconds for the frames of one clip


class ReaderDied(PllavaError):
    """The reading process died at a clip, or exceeded the time limit. A second try may succeed: memory may have been short."""


class Readers:
    """A pool of reading processes.

    workers: processes at once. time_limit: seconds for one clip. picture: (short side, width, height) of the tower's pictures; the workers
    then return the pictures of `pllava.video.aspect.tower_pictures`, which take far less memory. None: unchanged frames.
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
        self._free_workers = BoundedSemaphore(workers)
        self._busy: set[Child] = set()
        self._closed = False

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading processes that are busy."""
        self._closed = True
        for child in list(self._busy):
            child.end()

    def read(
        self,
        path: str | Path,
        num_frames: int = 16,
        sampling: str = "eval",
        start: float | None = None,
        end: float | None = None,
        *,
        seed: str | None = None,
        reader: str = "auto",
    ) -> VideoFrames:
        """As `read_video`, with a `seed` for "rand" instead of a generator. Raises PllavaError; ReaderDied when the process dies or exceeds
        the time limit."""
        message, frames = self._ask(
            "frames", path, **_bounds(num_frames, sampling, start, end), seed=seed, reader=reader, picture=self.picture, send=True
        )
        assert frames is not None
        return VideoFrames(frames, np.asarray(message["video"].pop("times")), **message["video"])

    def decode(
        self, path: str | Path, num_frames: int = 16, sampling: str = "eval", start: float | None = None, end: float | None = None
    ) -> VideoFrames:
        """As `read`, to check that a clip decodes. The result has 0 frames, because the worker does not send them."""
        message, _ = self._ask("frames", path, **_bounds(num_frames, sampling, start, end), seed=None, picture=None, send=False)
        return VideoFrames(np.empty((0, 0, 0, 3), np.uint8), np.asarray(message["video"].pop("times")), **message["video"])

    def probe(self, path: str | Path) -> VideoInfo:
        """As `pllava.video.reader.probe`."""
        return VideoInfo(**self._ask("info", path)[0]["info"])

    def header(self, path: str | Path) -> Header | None:
        """The header of a video, without decoding; None for pictures (animated ones too) and a folder of frames."""
        header = self._ask("header", path)[0]["header"]
        return header and Header(**header)

    def ahead(
        self, paths: Iterable[str | Path], num_frames: int = 16, sampling: str = "eval", window: int | None = None
    ) -> Iterator[tuple[str | Path, VideoFrames | PllavaError]]:
        """Each path with its frames, in order. Reads up to `window` clips ahead of the caller (default: two for each worker)."""
        window = window or 2 * self.workers
        waiting: deque[tuple[str | Path, Future[VideoFrames]]] = deque()
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="reader")
        try:
            for path in paths:
                waiting.append((path, threads.submit(self.read, path, num_frames, sampling)))
                if len(waiting) > window:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, job: str, path: str | Path, **arguments: Any) -> tuple[dict[str, Any], np.ndarray | None]:
        with self._free_workers:
            child = Child.take(WORKER)
            self._busy.add(child)
            if self._closed:
                child.end()
            done = False
            try:
                order = {"job": job, "path": str(path), "limits": asdict(self.limits), **arguments}
                [(message, frames)] = child.ask(order, self.time_limit)
                done = True
            except Gone as error:
                raise ReaderDied(f"{path}: {error}. {MEND}") from None
            finally:
                self._busy.discard(child)
                if done:
                    child.give_back()
                else:
                    child.end()
        if "error" in message:
            raise PllavaError(message["error"])
        return message, frames

    @staticmethod
    def _result(path: str | Path, future: Future[VideoFrames]) -> tuple[str | Path, VideoFrames | PllavaError]:
        try:
            return path, future.result()
        except NoReader:
            raise
        except PllavaError as error:
            return path, error


def _bounds(num_frames: int, sampling: str, start: float | None, end: float | None) -> dict[str, Any]:
    return {"num_frames": num_frames, "sampling": sampling, "start": time_bound("start", start), "end": time_bound("end", end)}
