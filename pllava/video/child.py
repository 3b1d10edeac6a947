"""A process that does jobs for us and is killed when one takes too long. Jobs are JSON; answers are JSON, with bytes after it where frames
are sent. No pickle, no fork: the child is a fresh `python -m MODULE`, whose `main` calls `serve`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 120.0  # seconds for a child to start
Say = Callable[..., None]  # say(message, frames=None)


class Gone(Exception):
    """The process is no more: killed at the limit, or dead by itself."""


class Child:
    """Our side."""

    def __init__(self, module: str) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=os.name == "posix",  # Ctrl-C is ours to handle
        )
        self._ready = False
        self._begun: dict[str, Any] | None = None

    def ask(self, job: dict[str, Any], time_limit: float) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """(message, uint8 frames) until the message that says "end". Raises Gone when none comes for `time_limit` seconds."""
        if not self._ready:
            self._next(START_LIMIT, "the reader did not start")
            self._ready = True
        self.begin(job)
        while True:
            said, data = self._next(time_limit, f"not read within {time_limit:g} s, stopped")
            shape = said.pop("shape", None)
            yield said, None if shape is None else np.frombuffer(data, np.uint8).reshape(shape)
            if said.get("end"):
                return

    def begin(self, job: dict[str, Any]) -> None:
        """Hand the job over, ahead of `ask` for the same one, which asks for what has come of it."""
        if self._begun is job:
            return
        self._begun = job
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has died: who asks will hear of it
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _next(self, time_limit: float, too_long: str) -> tuple[dict[str, Any], bytearray]:
        stdout = self.process.stdout
        assert stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.end()

        timer = threading.Timer(time_limit, expire)
        timer.daemon = True
        timer.start()
        try:
            line = stdout.readline()
            said = json.loads(line) if line.endswith(b"\n") else None
            data = bytearray(int(np.prod(said["shape"])) if said and "shape" in said else 0)
            if said is None or (data and stdout.readinto(data) < len(data)):  # type: ignore[attr-defined]
                raise BrokenPipeError
        except (OSError, ValueError):
            timer.cancel()
            self.end()
            raise Gone(too_long if expired.is_set() else self._death()) from None
        timer.cancel()
        return said, data

    def _death(self) -> str:
        code = self.process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder died ({how}{'; ' + last[0][:200] if last else ''})"


def serve(answer: Callable[[dict[str, Any], Say], None]) -> None:
    """The child's side: answer jobs until the other process has gone, even while a decoder hangs. Its last `say` of a job has end=True."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not land among the frames
    jobs: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            jobs.put(line)
        os._exit(0)

    def say(message: dict[str, Any], frames: np.ndarray | None = None) -> None:
        out.write(json.dumps(message if frames is None else {**message, "shape": frames.shape}).encode() + b"\n")
        if frames is not None:
            out.write(np.ascontiguousarray(frames).data)
        out.flush()

    threading.Thread(target=listen, daemon=True).start()
    say({"ready": True})
    while True:
        answer(json.loads(jobs.get()), say)
