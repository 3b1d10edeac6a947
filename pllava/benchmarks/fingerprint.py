"""One hash of a benchmark: its annotation files and every medium they name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pllava.benchmarks.benchmark import Sample
from pllava.core.errors import PllavaError
from pllava.core.files import sha256_file


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
            found = known.get(media.as_posix()) or media_sha256(media)
        except OSError:  # no permission, or a name that is too long: its questions will count as wrong
            found = "unreadable"
        lines.append(f"{media.relative_to(root).as_posix()} {found}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def media_sha256(media: Path) -> str:
    """sha256 of a file, of a folder's numbered frames, or "missing"."""
    if media.is_file():
        return sha256_file(media)
    if not media.is_dir():
        return "missing"
    frames = "\n".join(f"{frame.name} {sha256_file(frame)}" for frame in sorted(media.iterdir()) if frame.is_file())
    return hashlib.sha256(frames.encode()).hexdigest()
