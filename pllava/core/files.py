"""Writing so that a reader never meets half a file: temporary name, fsync, rename."""

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

UMASK = os.umask(0o022)  # reading it means setting it
os.umask(UMASK)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write all of `data` or leave what was there."""
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
    atomic_write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """JSON with sorted keys, so equal values are equal bytes."""
    atomic_write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises PllavaError for a file that is there but is no JSON; FileNotFoundError where there is none."""
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # UnicodeDecodeError is one
        raise PllavaError(f"{path} is not JSON: {error}. Fetch or write it again") from None


@contextmanager
def writing(path: str | Path, then: str) -> Iterator[None]:
    """Around what writes to `path`. Raises PllavaError that says what to do `then` where it cannot: on a full disk, say."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise PllavaError(f"{path} cannot be written: {error}. {then}") from error


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Give an empty sibling folder that becomes `path` when the block succeeds and is removed when it fails.

    What stood at `path` is moved aside first and removed last. Folders left by processes that were killed are removed here.
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
        before = path.with_name(f".{path.name}.{os.getpid()}.before.partial")
        if path.is_dir():
            path.replace(before)
        temporary.replace(path)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = left.name.removeprefix(f".{path.name}.").split(".")[0]
        if not pid.isdigit() or int(pid) == os.getpid() or process_is_alive(int(pid)):
            continue
        if left.name.endswith(".before.partial") and not path.exists():
            left.replace(path)  # killed between the two renames: the old folder is the whole one
        else:
            shutil.rmtree(left, ignore_errors=True)


def folder_of_process(home: Path, prefix: str = "") -> Path:
    """A new empty folder that nobody else reads; those of processes that ended without removing theirs go.

    A lock tells which: in containers that share the place, pids say nothing.
    """
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f"{prefix}*"):
        if (handle := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        if _locked(folder) is not None and folder.is_dir():  # not taken for one that was left
            return folder


def _locked(folder: Path) -> int | None:
    """A descriptor with the folder's lock, which is let go when it is closed or the process ends; None when it is another's."""
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
    """One process at a time; a killed one lets go of the lock. Raises PllavaError with `busy` and the lock's name when another keeps it
    for so many seconds."""
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        try:
            held.acquire(timeout=0)
        except Timeout:
            if seconds:
                print(f"{busy} (it holds {lock}): waiting up to {seconds:g} s for its end", file=sys.stderr, flush=True)
            held.acquire(timeout=seconds)
    except Timeout:
        raise PllavaError(f"{busy} (it holds {lock}). Wait for it or end it, then repeat the command") from None
    try:
        yield
    finally:
        held.release()


def process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
