"""The clip of a question, for a browser: the file itself where the browser plays it, else its frames as pictures.

A browser sends the number of a question, never a path. The path comes from the results. It must lie inside the folder of the benchmark's
clips.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.video.readers import Readers

PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
CODECS = {"h264": "video/mp4", "av1": "video/mp4", "vp8": "video/webm", "vp9": "video/webm"}  # that Chromium, Firefox and Safari play
PIXEL_FORMATS = ("yuv420p", "yuvj420p")
HEIGHT = 120  # pixels, of a picture of a frame
READERS = 2  # clips that are read at the same time
TURNS = threading.BoundedSemaphore(8)  # requests that read a clip or wait for a reader; others keep the server's threads
PATIENCE = 5.0  # seconds that a request waits for a turn


@dataclass(frozen=True)
class Strip:
    """JPEG pictures of the frames that a model sees. times, duration: seconds."""

    pictures: list[bytes]
    times: list[float]
    duration: float
    total: int  # number of frames in the clip


def locate(root: Path | None, media: str) -> Path:
    """The absolute path of the clip `media`, which the results name relative to `root`.

    Raises PllavaError when the clip does not exist or lies outside `root`, also by a link.
    """
    if root is None:
        raise PllavaError("nobody said where these clips are. Start with: pllava gallery RESULTS --media FOLDER")
    name = Path(media).name
    if "\0" in media or Path(media).is_absolute():
        raise PllavaError(f"{name!r} is not inside the benchmark's folder; it is not shown")
    path, folder = (root / media).resolve(), root.resolve()
    if not path.is_relative_to(folder) or path == folder:
        raise PllavaError(f"{name!r} is not inside the benchmark's folder; it is not shown")
    if not path.exists():
        raise PllavaError(f"{name!r} is not in the benchmark's folder")
    if path.is_dir() and any(not frame.resolve().is_relative_to(folder) for frame in path.iterdir()):
        raise PllavaError(f"{name!r} holds links to files outside the benchmark's folder; it is not shown")
    return path


def content_type(path: Path) -> str | None:
    """The MIME type of a file, by its content; None when browsers can't show the file. Raises PllavaError when too many clips are read."""
    stat = path.stat()
    return _content_type(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(1024)
def _content_type(path: Path, size: int, modified_ns: int) -> str | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if picture := next((kind for magic, kind in PICTURES.items() if head.startswith(magic)), None):
        return picture
    with _turn():
        try:
            header = _readers().header(path)
        except PllavaError:
            return None
    if header is None or not set(header.format.split(",")) & {"mp4", "webm"} or header.pix_fmt not in PIXEL_FORMATS:
        return None
    kind = CODECS.get(header.codec.removeprefix("lib").split("-")[0].replace("dav1d", "av1"))
    return "video/webm" if kind and head[:4] == b"\x1a\x45\xdf\xa3" else kind and "video/mp4"


@lru_cache(1)
def _readers() -> Readers:
    from pllava.video.readers import Readers

    return Readers(READERS)


@contextmanager
def _turn() -> Iterator[None]:
    """Hold one of TURNS. Raises PllavaError when none is free for PATIENCE seconds."""
    if not TURNS.acquire(timeout=PATIENCE):
        raise PllavaError("other clips are being read now. Reload the page in a moment")
    try:
        yield
    finally:
        TURNS.release()


@lru_cache(32)
def strip(path: Path, num_frames: int, frame_rule: str, start: float | None, end: float | None) -> Strip:
    """Pictures of the frames between `start` and `end` (seconds).

    Raises PllavaError when the clip can't be read; the message has the file's name, not its folder.
    """
    from pllava.apps.web.frames import thumbnail

    try:
        with _turn():
            video = _readers().read(path, num_frames, frame_rule, start, end)
    except PllavaError as error:
        raise PllavaError(str(error).replace(str(path), path.name)) from None
    pictures = []
    for frame in video.frames:
        buffer = io.BytesIO()
        thumbnail(frame, HEIGHT).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    return Strip(pictures, [float(time) for time in video.times], video.duration, video.num_frames_total)


@lru_cache(512)
def thumbnail(path: Path, start: float | None, end: float | None) -> bytes:
    """A JPEG picture of one frame between `start` and `end` (seconds). Raises PllavaError when the clip can't be read."""
    return strip.__wrapped__(path, 1, "eval", start, end).pictures[0]
