"""The clip of a question, for a browser: the file where the browser plays it, and frames as pictures where it does not.

A page names a question, never a path. The path comes from the results, and is followed only inside the folder of the benchmark's clips.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.video.readers import Readers

PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
CODECS = {"h264": "video/mp4", "av1": "video/mp4", "vp8": "video/webm", "vp9": "video/webm"}  # of Chromium, Firefox and Safari
PIXELS = ("yuv420p", "yuvj420p")
HEIGHT = 120  # pixels, of a frame
READERS = 2  # clips that are read at once


@dataclass(frozen=True)
class Strip:
    """JPEG pictures of the frames a model is shown, and their times in seconds."""

    pictures: list[bytes]
    times: list[float]
    duration: float
    total: int  # frames of the clip


def locate(root: Path | None, media: str) -> Path:
    """The clip's path. Raises PllavaError when it is not there, or not inside `root`."""
    if root is None:
        raise PllavaError("nobody said where these clips are. Start with: pllava gallery RESULTS --media FOLDER")
    name = Path(media).name
    if "\0" in media or Path(media).is_absolute():
        raise PllavaError(f"{name!r} is not inside the benchmark's folder; it is not shown")
    path, inside = (root / media).resolve(), root.resolve()
    if not path.is_relative_to(inside) or path == inside:
        raise PllavaError(f"{name!r} is not inside the benchmark's folder; it is not shown")
    if not path.exists():
        raise PllavaError(f"{name!r} is not in the benchmark's folder")
    if path.is_dir() and any(not frame.resolve().is_relative_to(inside) for frame in path.iterdir()):
        raise PllavaError(f"{name!r} holds links to files outside the benchmark's folder; it is not shown")
    return path


def content_type(path: Path) -> str | None:
    """What a browser is told, by the file's content; None: it could not show it as it is."""
    stat = path.stat()
    return _content_type(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(1024)
def _content_type(path: Path, size: int, changed: int) -> str | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if picture := next((kind for magic, kind in PICTURES.items() if head.startswith(magic)), None):
        return picture
    try:
        header = _readers().header(path)
    except PllavaError:
        return None
    if header is None or not set(header.format.split(",")) & {"mp4", "webm"} or header.pix_fmt not in PIXELS:
        return None
    kind = CODECS.get(header.codec.removeprefix("lib").split("-")[0].replace("dav1d", "av1"))
    return "video/webm" if kind and head[:4] == b"\x1a\x45\xdf\xa3" else kind and "video/mp4"


@lru_cache(1)
def _readers() -> Readers:
    from pllava.video.readers import Readers

    return Readers(READERS)


@lru_cache(32)
def strip(path: Path, num_frames: int, frame_rule: str, start: float | None, end: float | None) -> Strip:
    """Raises PllavaError when the clip can't be read; the message has the file's name only."""
    from pllava.apps.web.frames import thumbnail

    try:
        video = _readers().read(path, num_frames, frame_rule, start, end)
    except PllavaError as error:
        raise PllavaError(str(error).replace(str(path), path.name)) from None
    pictures = []
    for frame in video.frames:
        buffer = io.BytesIO()
        thumbnail(frame, HEIGHT).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    return Strip(pictures, [float(time) for time in video.times], video.duration, video.num_frames_total)
