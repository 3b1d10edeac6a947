"""Atomic writes (temporary name, fsync, rename), so that a reader never sees half a file; JSON; locks."""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError

UMASK = os.umask(0o022)  # the system has no call that only reads it: set it, then set it back
os.umask(UMASK)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write all of `data`, or leave the file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write_bytes` of the text as UTF-8."""
    atomic_write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys: equal values give equal bytes."""
    atomic_write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises PllavaError when the file is not JSON, FileNotFoundError when there is no file."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError; deep nesting is a RecursionError
        raise PllavaError(f"{path} is not JSON: {error}. Fetch or write it again") from None


@contextmanager
def writing(path: str | Path, then: str) -> Iterator[None]:
    """Turn errors of a write to `path` (a full disk) into PllavaError. `then` is the next step that the error names."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise PllavaError(f"{path} cannot be written: {error}. {then}") from error


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield an empty sibling folder. It is renamed to `path` when the block succeeds, and removed when the block fails.

    An older folder at `path` is renamed first and removed last. Temporary folders of killed processes are removed too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for root, _, files in os.walk(temporary):
            for name in files:
                with Path(root, name).open("rb") as file:
                    os.fsync(file.fileno())
                    os.fchmod(file.fileno(), 0o666 & ~UMASK)  # safetensors writes files that only their owner can read
        previous = path.with_name(f".{path.name}.{os.getpid()}.before.partial")
        if path.is_dir():
            path.replace(previous)
        temporary.replace(path)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary folders of `path` whose process has ended, or restore the older folder."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = folder.name.removeprefix(f".{path.name}.").split(".")[0]
        if not pid.isdigit() or int(pid) == os.getpid() or process_is_alive(int(pid)):
            continue
        if folder.name.endswith(".before.partial") and not path.exists():
            folder.replace(path)  # the process was killed between the two renames: restore the older folder
        else:
            shutil.rmtree(folder, ignore_errors=True)


def folder_of_process(home: Path, prefix: str = "") -> Path:
    """A new empty folder in `home` that this process alone uses, locked until the process ends. Folders of ended processes are removed.

    The lock shows whether a process still runs. A pid would not: containers that share `home` number their processes separately.
    """
    home.mkdir(parents=True, exist_ok=True)
    for abandoned in home.glob(f"{prefix}*"):
        if (handle := _locked(abandoned)) is not None:
            shutil.rmtree(abandoned, ignore_errors=True)
            os.close(handle)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        if _locked(folder) is not None and folder.is_dir():  # else another process took it for an abandoned folder and removed it
            return folder


def _locked(folder: Path) -> int | None:
    """A file descriptor that holds the folder's lock until it is closed or the process ends; None when another process holds the lock."""
    import fcntl

    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


@contextmanager
def alone(lock: Path, busy: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold `lock` until the block ends. The system releases the lock of a killed process.

    Raises PllavaError with the message `busy` and the lock's name when another process still holds the lock after `seconds`.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock)
    try:
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            if seconds:
                print(f"{busy} (it holds {lock}): waiting up to {seconds:g} s for its end", file=sys.stderr, flush=True)
            file_lock.acquire(timeout=seconds)
    except Timeout:
        raise PllavaError(f"{busy} (it holds {lock}). Wait for it or end it, then repeat the command") from None
    try:
        yield
    finally:
        file_lock.release()


def process_is_alive(pid: int) -> bool:
    """Whether a process has this pid, of whichever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
