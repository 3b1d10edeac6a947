"""A child process that does jobs, and is killed when a job takes too long.

The parent sends a job as a JSON line. The child answers with JSON messages. The bytes of frames follow their message in the pipe; frames
of the last message are in shared memory, and a byte in the pipe follows each chunk of them, so that the parent copies a chunk while the
child writes the next one. No pickle, no fork: the child is a fresh `python -m MODULE` that calls `serve`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from pllava.core.errors import PllavaError

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 120.0  # seconds for a child to start
PIPE_BYTES = 1 << 20  # size of the pipe's buffer in the kernel
CHUNK_BYTES = 1 << 20  # of shared memory: it stays in the processor's cache between the child and the parent
KEPT_BYTES = 256 << 20  # shared memory that is kept from one job to the next
RETIRED_BYTES = 2 << 30  # resident memory after a job; a larger process is not used again
Say = Callable[..., None]  # say(message, frames=None)


class Gone(Exception):
    """The process has ended: it was killed at the time limit, or it died."""


class NoReader(PllavaError):
    """No reading process can be started. The clip is not the cause."""


class Child:
    """The parent's side of a child process. `Child.take(module)` returns one; `give_back` it after its last message, else `end` it."""

    idle: ClassVar[dict[str, deque[Child]]] = defaultdict(deque)  # by module; idle children end with this process

    @classmethod
    def take(cls, module: str) -> Child:
        """An idle process, or a new one. Raises NoReader when none can be started."""
        while cls.idle[module]:
            try:
                child = cls.idle[module].pop()
            except IndexError:  # another thread has taken the last one
                break
            if child.process.poll() is None:  # an idle child may have been killed
                return child
        try:
            return cls(module)
        except OSError as error:
            raise NoReader(
                f"no process can be started to read clips with: {error.strerror}. Free memory or processes, and try again"
            ) from None

    def give_back(self) -> None:
        """Keep the process for the next job, unless it has grown too large."""
        if self._retired:
            self.end()
        else:
            self.idle[self.module].append(self)

    def __init__(self, module: str) -> None:
        self.module = module
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._frames = _memory_file()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(self._frames.fileno())],
            pass_fds=[self._frames.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=os.name == "posix",  # Ctrl-C reaches only the parent
            pipesize=PIPE_BYTES,
        )
        self._ready = self._retired = False
        self._sent_job: dict[str, Any] | None = None

    def ask(self, job: dict[str, Any], time_limit: float) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """Messages of a job with their uint8 frames (or None), up to the message with "end".

        Raises Gone when no message comes for `time_limit` seconds, NoReader when the process does not start.
        """
        if not self._ready:
            try:
                self._next(START_LIMIT, f"it took more than {START_LIMIT:g} s")
            except Gone as error:
                raise NoReader(f"the process that reads clips does not start: {error}. Is the installation whole? pllava doctor") from None
            self._ready = True
        self.begin(job)
        while True:
            message, frames = self._next(time_limit, f"not read within {time_limit:g} s, stopped")
            self._retired = message.pop("retired", False)
            yield message, frames
            if message.get("end"):
                return

    def begin(self, job: dict[str, Any]) -> None:
        """Send the job before `ask` is called with the same job. `ask` then only receives the messages."""
        if self._sent_job is job:
            return
        self._sent_job = job
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has died: `ask` raises Gone
            self.process.stdin.write(json.dumps({**job, "folder": _working_folder()}).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _next(self, time_limit: float, too_long: str) -> tuple[dict[str, Any], np.ndarray | None]:
        """The next message and its frames. Raises Gone; too_long: the message of Gone at the time limit."""
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
            message = json.loads(line) if line.endswith(b"\n") else None
            frames = np.empty(message.pop("shape"), np.uint8) if message and "shape" in message else None
            if message is None or (frames is not None and not self._receive(frames, shared=message.get("end", False))):
                raise BrokenPipeError
        except (OSError, ValueError):
            timer.cancel()
            self.end()
            raise Gone(too_long if expired.is_set() else self._death()) from None
        timer.cancel()
        return message, frames

    def _receive(self, frames: np.ndarray, shared: bool) -> bool:
        """Fill `frames` from the shared memory or from the pipe. False when the child ends too early."""
        stdout, view = self.process.stdout, frames.reshape(-1).data
        assert stdout is not None
        if not shared:
            return _fill(view, stdout)
        for position in range(0, len(view), CHUNK_BYTES):
            if not stdout.read(1) or not _fill(view[position : position + CHUNK_BYTES], self._frames):
                return False
        self._rewind()
        return True

    def _rewind(self) -> None:
        """Make the shared memory ready for the next job. Frees more than `KEPT_BYTES`."""
        if self._frames.tell() > KEPT_BYTES:
            self._frames.truncate(0)
        self._frames.seek(0)

    def _death(self) -> str:
        """How the process ended, with the last line of its log."""
        code = self.process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder died ({how}{'; ' + last[0][:200] if last else ''})"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Child.idle.clear)  # two processes cannot share one


def _memory_file() -> IO[bytes]:
    """A file without a name, for the many frames of a last message. A pipe would transfer them in small pieces."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _fill(view: memoryview, source: IO[bytes]) -> bool:
    """Fill the view from the source. False when the source ends too early."""
    while view:
        count = source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            return False
        view = view[count:]
    return True


def _working_folder() -> str | None:
    """The folder that paths of a job are relative to: the child may have started in another. None: the folder was removed."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return None


def cap_memory(limit: int) -> None:
    """Limit this process to `limit` bytes of data. A larger allocation fails here instead of exhausting the machine."""
    with suppress(ImportError, ValueError, OSError):  # not on Unix
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not on Linux
        return 0


def _write(file: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(file, view, position)
        view, position = view[count:], position + count


def serve(answer: Callable[[dict[str, Any], Say], None]) -> None:
    """The child's side: answer jobs until the parent ends, even while a decoder hangs. The last message of a job holds "end": True."""
    out, memory = os.fdopen(os.dup(1), "wb"), int(sys.argv[1])
    os.dup2(2, 1)  # output of a decoder must not mix with the frames
    jobs: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            jobs.put(line)
        os._exit(0)

    def say(message: dict[str, Any], frames: np.ndarray | None = None) -> None:
        last = message.get("end", False)
        if last:
            message["retired"] = _resident_bytes() > RETIRED_BYTES
        out.write(json.dumps(message if frames is None else {**message, "shape": frames.shape}).encode() + b"\n")
        if frames is not None:
            view = np.ascontiguousarray(frames).reshape(-1).data
            if last:
                for position in range(0, len(view), CHUNK_BYTES):
                    _write(memory, view[position : position + CHUNK_BYTES], position)
                    out.write(b".")
                    out.flush()
            else:
                out.write(view)
        out.flush()

    threading.Thread(target=listen, daemon=True).start()
    say({"ready": True})
    while True:
        job = json.loads(jobs.get())
        with suppress(OSError):  # the folder was removed, with the files in it
            os.chdir(job.pop("folder") or ".")
        answer(job, say)
