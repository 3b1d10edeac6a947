"""Several clips read at once, ahead of their use, each under a time limit.

    with Readers(workers=2, time_limit=60) as readers:
        for path, video in readers.ahead(paths):    # in order; video is VideoFrames, or the PllavaError that says why not
            ...

Each worker is a fresh process (a fork of one with decoder or torch threads can hang). A clip at which the decoder hangs, dies or takes
longer than the limit costs that process and is reported; the other clips are not touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from pllava.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.reader import VideoFrames

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT = 120.0  # seconds for the frames of one clip
START_LIMIT = 120.0  # seconds for a worker to start


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
        self._idle: deque[_Child] = deque()
        self._all: set[_Child] = set()
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
        child = self._idle.pop() if self._idle else _Child()
        self._all.add(child)
        try:
            video = child.read(job | arguments, self.time_limit)
        except _Gone as error:
            self._all.discard(child)
            raise PllavaError(f"{path}: {error}. Skip it, or write it anew: ffmpeg -i IN -c:v libx264 -an OUT.mp4") from None
        except PllavaError:
            self._idle.append(child)
            raise
        self._idle.append(child)
        return video

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


class _Gone(Exception):
    """The process is no more: killed at the limit, or dead by itself."""


class _Child:
    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pllava.video.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=os.name == "posix",  # Ctrl-C is ours to handle
        )
        self._ready = False

    def read(self, job: dict[str, Any], time_limit: float) -> VideoFrames:
        if not self._ready:
            self._exchange(None, START_LIMIT, "the reader did not start")
            self._ready = True
        said, data = self._exchange(job, time_limit, f"not read within {time_limit:g} s, stopped")
        if "error" in said:
            raise PllavaError(said["error"])
        frames = np.frombuffer(data, np.uint8).reshape(said.pop("shape"))
        return VideoFrames(frames, np.asarray(said.pop("times")), **said)

    def _exchange(self, job: dict[str, Any] | None, time_limit: float, too_long: str) -> tuple[dict[str, Any], bytearray]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        expired = threading.Event()
        timer = threading.Timer(time_limit, lambda: (expired.set(), self.end()))
        timer.daemon = True
        timer.start()
        try:
            if job is not None:
                stdin.write(json.dumps(job).encode() + b"\n")
                stdin.flush()
            line = stdout.readline()
            said = json.loads(line) if line.endswith(b"\n") else None
            data = bytearray(int(np.prod(said["shape"])) if said and "shape" in said else 0)
            if said is None or (data and stdout.readinto(data) < len(data)):  # type: ignore[attr-defined]
                raise BrokenPipeError
        except (OSError, ValueError):
            timer.cancel()
            self.end()
            raise _Gone(too_long if expired.is_set() else self._death()) from None
        timer.cancel()
        return said, data

    def _death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder died ({how}{'; ' + last[0][:200] if last else ''})"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
