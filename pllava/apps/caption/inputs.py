"""What `pllava caption` is to caption, in a fixed order, one path at a time: files, folders with all below, globs and list files.

In a folder, files count that are videos by their name, and folders of numbered frames; what is named itself is tried whatever its name.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.video.stills import FRAME_SUFFIXES

# fmt: off
SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".m2v", ".ts",
    ".m2ts", ".mts", ".3gp", ".3g2", ".ogv", ".ogg", ".mxf", ".dv", ".gif", ".y4m", ".ivf", ".vob",
})
# fmt: on


def expand(sources: Iterable[str | Path]) -> Iterator[str]:
    """Paths, lazily. A source is a file, a folder, a glob (`clips/**/*.mp4`) or `@FILE`, a list with one source a line (`@-`: stdin).

    Raises PllavaError for a source that names nothing. Links are followed; a folder inside itself is entered once.
    """
    for source in map(str, sources):
        if source.startswith("@") and not os.path.lexists(source):
            yield from _listed(source[1:])
        else:
            yield from _one(source)


def _one(source: str) -> Iterator[str]:
    path = Path(source)
    if os.path.lexists(source):  # a broken link is tried, and fails by its name
        if path.is_dir() and not is_clip(path):
            yield from _walk(source, ())
        else:
            yield source
        return
    if glob.has_magic(source):
        found = False
        for match in sorted(glob.iglob(source, recursive=True)):  # noqa: PTH207  as the user wrote it
            found = True
            if _goes_in_circles(match):
                continue
            yield from _one(match) if match != source else (match,)
        if found:
            return
        raise PllavaError(f"{source}: no file matches this pattern")
    raise PllavaError(f"{source}: no such file or folder")


def _listed(name: str) -> Iterator[str]:
    try:
        file = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise PllavaError(f"{name}: the list cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            source = os.fsdecode(line.rstrip(b"\r\n"))
            if source.strip() and not source.startswith("#"):
                try:
                    yield from _one(source)
                except PllavaError:
                    # In a list of thousands one path that is gone is a failure of its own, not the end.
                    if glob.has_magic(source):
                        raise PllavaError(f"{name}, line {number}: no file matches {source}") from None
                    yield source


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError:
        yield folder  # fails by its name, with the reason
        return
    for name, is_folder in found:
        path = os.path.join(folder, name)  # noqa: PTH118
        if is_folder and not is_clip(Path(path)):
            yield from _walk(path, (*above, identity))
        elif is_folder or (os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")):  # noqa: PTH122
            yield path


def _goes_in_circles(path: str) -> bool:
    """Whether a link leads it through one folder twice."""
    folders = [status for above in Path(path).parents if (status := _identity(above))]
    return len(set(folders)) < len(folders)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_clip(folder: Path) -> bool:
    """A folder of frames 1.jpg, 00002.jpg, ... and nothing but pictures."""
    try:
        with os.scandir(folder) as entries:
            names = [Path(entry.name) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return False
    return any(name.stem.isdecimal() and int(name.stem) == 1 and name.suffix.lower() in FRAME_SUFFIXES for name in names) and all(
        name.suffix.lower() in FRAME_SUFFIXES for name in names
    )
