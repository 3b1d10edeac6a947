"""Reads the files of a benchmark: JSON lists, media by name, and one hash of all files."""

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
    """The list in a JSON file. Raises PllavaError if the file is missing or holds no list, or if an entry lacks a field of `needed`."""
    if not path.is_file():
        raise PllavaError(
            f"{path} is not there. Put the benchmark in its published layout (docs/evaluation.md), or mend its root in params.yaml"
        )
    entries = read_json(path)
    if not isinstance(entries, list):
        raise PllavaError(f"{path}: a JSON list is needed, found {type(entries).__name__}")
    for index, entry in enumerate(entries):
        missing = [key for key in needed if not isinstance(entry, dict) or not isinstance(entry.get(key), str | int | float)]
        if missing:
            raise PllavaError(f"{path}[{index}]: no {', '.join(missing)}. Each entry needs {', '.join(needed)}")
    return entries


class MediaIndex:
    """Finds media files under a folder by their name in annotations, which often lacks the suffix: `MediaIndex(root)["vid1201"]`.

    A name may include folders, to distinguish clips of equal name: `MediaIndex(root)["day2/clip.mp4"]`.
    first: the preferred suffix, if a clip exists with several.
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
        """The path of the media file, or a path that does not exist: evaluation lists such a path and counts its questions as wrong.

        Raises PllavaError if the name leads out of the root.
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
    """Hash of the sha256 and the path under `root` of each annotation file and medium. The location of `root` has no influence.

    known: media path (as in Sample.media) -> sha256, for media that `prepare` has hashed already.
    Raises PllavaError for a medium that is not under `root`.
    """
    root, known = Path(root), known or {}
    lines = [f"{file.relative_to(root).as_posix()} {sha256_file(file)}" for file in annotations]
    for media in sorted({sample.media for sample in samples}):
        if not media.is_relative_to(root):
            raise PllavaError(f"{media} does not lie under {root}, the benchmark's root. Put it there, or mend the root in params.yaml")
        try:
            digest = known.get(media.as_posix()) or media_sha256(media)
        except OSError:  # no permission, or too long a name: evaluation counts its questions as wrong
            digest = "unreadable"
        lines.append(f"{media.relative_to(root).as_posix()} {digest}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def media_sha256(media: Path) -> str:
    """sha256 of a file or of the frames in a folder; "missing" if neither exists."""
    if media.is_file():
        return sha256_file(media)
    if not media.is_dir():
        return "missing"
    frames = "\n".join(f"{frame.name} {sha256_file(frame)}" for frame in sorted(media.iterdir()) if frame.is_file())
    return hashlib.sha256(frames.encode()).hexdigest()
