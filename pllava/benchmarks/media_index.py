"""Videos of a benchmark by the name its annotations use, which often has no suffix: `MediaIndex(root)["vid1201"]`.

A name may hold folders, which tell clips of one name apart: `MediaIndex(root)["day2/clip.mp4"]`.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from pllava.core.errors import PllavaError

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif")


class MediaIndex:
    """All media files under a folder, whatever subfolder they are in. `first`: the suffix that wins where a clip is there twice."""

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
        asked = PurePosixPath(name)
        if asked.is_absolute() or ".." in asked.parts:
            raise PllavaError(f"{name!r} leads out of {self.root}. Name a clip that lies under it")
        folders = asked.parts[:-1]
        short = asked.stem if asked.suffix.lower() in SUFFIXES else asked.name
        for path in (*self._paths.get(asked.name, ()), *self._paths.get(short, ())):
            if not folders or path.parent.parts[-len(folders) :] == folders:
                return path
        return self.root / "videos" / name
