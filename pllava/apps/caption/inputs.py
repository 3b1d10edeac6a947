"""The videos that `pllava caption` captions, one path at a time, in a fixed order: from files, folders, globs and list files.

A folder stands for all videos in it and below: files with a suffix in SUFFIXES, and folders of numbered frames. A file that the user
names is used whatever its suffix.
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
    """Yields paths. A source is a file, a folder, a glob (`clips/**/*.mp4`) or `@FILE`, a list with one source a line (`@-`: stdin).

    Raises PllavaError for a source that does not exist. Links are followed; a folder that a link leads back to is entered once.
    """
    for source in map(str, sources):
        if source.startswith("@") and not os.path.lexists(source):
            yield from _listed(source[1:])
        else:
            yield from _paths_of(source)


def _paths_of(source: str) -> Iterator[str]:
    path = Path(source)
    if os.path.lexists(source):  # also a broken link: it fails later, by its name
        if path.is_dir() and not is_clip(path):
            yield from _walk(source, ())
        else:
            yield source
        return
    if glob.has_magic(source):
        matched = False
        for match in sorted(glob.iglob(source, recursive=True)):  # noqa: PTH207  as the user wrote it
            matched = True
            if _goes_in_circles(match):
                continue
            yield from _paths_of(match) if match != source else (match,)
        if matched:
            return
        raise PllavaError(f"{source}: no file matches this pattern")
    raise PllavaError(f"{source}: no such file or folder")


def _listed(name: str) -> Iterator[str]:
    """The paths of the list file `name`. Raises PllavaError when the list cannot be read, or a glob in it matches nothing."""
    try:
        file = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise PllavaError(f"{name}: the list cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            source = os.fsdecode(line.rstrip(b"\r\n"))
            if source.strip() and not source.startswith("#"):
                try:
                    yield from _paths_of(source)
                except PllavaError:
                    # One missing path in a list of thousands is a failure of this video, not the end of the run.
                    if glob.has_magic(source):
                        raise PllavaError(f"{name}, line {number}: no file matches {source}") from None
                    yield source


def _walk(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The videos in a folder and below. parents: identities of the folders above it."""
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            return
        with os.scandir(folder) as entries:
            children = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError:
        yield folder  # fails by its name, with the reason
        return
    for name, is_folder in children:
        path = os.path.join(folder, name)  # noqa: PTH118
        if is_folder and not is_clip(Path(path)):
            yield from _walk(path, (*parents, identity))
        elif is_folder or (os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")):  # noqa: PTH122
            yield path


def _goes_in_circles(path: str) -> bool:
    """Whether the path passes through one folder twice, by a link."""
    folders = [identity for parent in Path(path).parents if (identity := _identity(parent))]
    return len(set(folders)) < len(folders)


def _identity(folder: Path) -> tuple[int, int] | None:
    """(device, inode); None when the folder cannot be read."""
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
    """Whether a folder holds the frames of a clip: 1.jpg, 00002.jpg, ..., and only pictures."""
    try:
        with os.scandir(folder) as entries:
            names = [Path(entry.name) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return False
    return any(name.stem.isdecimal() and int(name.stem) == 1 and name.suffix.lower() in FRAME_SUFFIXES for name in names) and all(
        name.suffix.lower() in FRAME_SUFFIXES for name in names
    )
