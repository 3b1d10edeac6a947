"""Hashes of files, values and source code, and the key of a piece of work: `work_key(params=..., code=code_sha256("video"))`."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes
PACKAGE = Path(__file__).resolve().parents[1]
KEY_LENGTH = 16  # hexadecimal digits of a key that names a file


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in constant memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """Hex digest of a value that JSON can hold; keys are sorted, so equal values are equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def work_key(**depends_on: Any) -> str:
    """A key of 16 hexadecimal digits for a piece of work. It changes when one of the values changes. The values must fit into JSON."""
    return sha256_of(depends_on)[:KEY_LENGTH]


def code_sha256(*sources: str, packages: tuple[str, ...] = ()) -> str:
    """Hex digest of this project's code in `sources` (folders or files below pllava/: "video", "model/tower.py"), and of the versions of
    installed `packages`. Interrupted work is resumed only by the code that began it."""
    files = sorted(file for source in sources for file in _sources(PACKAGE / source))
    lines = [f"{name} {version(name)}" for name in packages]
    lines += [f"{file.relative_to(PACKAGE).as_posix()} {sha256_file(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stat_fingerprint(path: str) -> str:
    """Size and time of change of a file; a digest over these of all files of a folder; "missing" for no file and for a broken link."""
    try:
        status = os.stat(path)  # noqa: PTH116  a million Path objects cost seconds
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return "missing"
    if not os.path.isdir(path):  # noqa: PTH112
        return f"{status.st_size}:{status.st_mtime_ns}"
    with os.scandir(path) as entries:
        lines = sorted(f"{entry.name}:{stat_fingerprint(entry.path)}" for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sources(path: Path) -> list[Path]:
    """The file itself, or all .py and .yaml files of a folder."""
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.suffix in (".py", ".yaml") and file.is_file()]
