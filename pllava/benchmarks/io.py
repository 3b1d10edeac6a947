"""Files of a benchmark: its JSON lists, its media by name, and one hash of all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pllava.benchmarks.benchmark import Sample
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import sha256_file

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif")


def read_entries(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The list in a JSON file. Raises PllavaError when the file is not there, is no list, or an entry lacks a field."""
    if not path.is_file():
        raise PllavaError(
            f"{path} is not there. Put the benchmark in its published layout (docs/evaluation.md), or mend its root in params.yaml"
        )
    try:
        entries = read_json(path)
    except ValueError as error:
        raise PllavaError(f"{path} is not valid JSON: {error}. Fetch the file again") from None
    if not isinstance(entries, list):
        raise PllavaError(f"{path}: a JSON list is needed, found {type(entries).__name__}")
    for index, entry in enumerate(entries):
        missing = [key for key in needed if not isinstance(entry, dict) or not isinstance(entry.get(key), str | int | float)]
        if missing:
            raise PllavaError(f"{path}[{index}]: no {', '.join(missing)}. Each entry needs {', '.join(needed)}")
    return entries


class MediaIndex:
    """All media files under a folder, by the name annotations use, which often has no suffix: `MediaIndex(root)["vid1201"]`.

    A name may hold folders, which tell clips of one name apart: `MediaIndex(root)["day2/clip.mp4"]`.
    first: the suffix that wins where a clip is there twice.
    """

    def __init__(self, root: str | Path, first: str = ".mp4"):
        self.root = Path(root)
        self._paths: dict[str, list[Path]] = {}
        order = [first, *(suffix for suffix in SUFFIXES if suffix != first)]
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(self.root, followlinks=True)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES
        ]
        for path in sorted(files, key=lambda path: (order.index(path.suffix.lower()), path.as_posix())):
            for name in (path.name, path.stem):
                self._paths.setdefault(name, []).append(path)

    def __getitem__(self, name: str) -> Path:
        """The file; where there is none, the place it would be missed at: evaluation then counts its questions as wrong and lists it.

        Raises PllavaError for a name that leads out of the root.
        """
        requested = PurePosixPath(name)
        if requested.is_absolute() or ".." in requested.parts:
            raise PllavaError(f"{name!r} leads out of {self.root}. Name a clip that lies under it")
        folders = requested.parts[:-1]
        stem = requested.stem if requested.suffix.lower() in SUFFIXES else requested.name
        for path in (*self._paths.get(requested.name, ()), *self._paths.get(stem, ())):
            if not folders or path.parent.parts[-len(folders) :] == folders:
                return path
        return self.root / "videos" / name


def data_sha256(root: str | Path, annotations: Iterable[Path], samples: Sequence[Sample], known: Mapping[str, str] | None = None) -> str:
    """Each annotation file and each medium enters with its own sha256 and its path under `root`, so where `root` lies does not matter.
    Raises PllavaError for a medium that is not under `root`.

    `known` maps a media path (as in Sample.media) to its sha256, so that what `prepare` hashed is not read again.
    """
    root, known = Path(root), known or {}
    lines = [f"{file.relative_to(root).as_posix()} {sha256_file(file)}" for file in annotations]
    for media in sorted({sample.media for sample in samples}):
        if not media.is_relative_to(root):
            raise PllavaError(f"{media} does not lie under {root}, the benchmark's root. Put it there, or mend the root in params.yaml")
        try:
            digest = known.get(media.as_posix()) or media_sha256(media)
        except OSError:  # no permission, or a name that is too long: its questions will count as wrong
            digest = "unreadable"
        lines.append(f"{media.relative_to(root).as_posix()} {digest}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def media_sha256(media: Path) -> str:
    """sha256 of a file, of a folder's numbered frames, or "missing"."""
    if media.is_file():
        return sha256_file(media)
    if not media.is_dir():
        return "missing"
    frames = "\n".join(f"{frame.name} {sha256_file(frame)}" for frame in sorted(media.iterdir()) if frame.is_file())
    return hashlib.sha256(frames.encode()).hexdigest()
