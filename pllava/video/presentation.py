"""What a file shows: the one place for the rules that every reader obeys, as a player does.

- The film is the container's best video stream, never cover art, thumbnails or a preview.
- A picture is upright: the whole display matrix counts, turns and mirrors. Transparent pixels lie on white.
- Only presented frames count. Packets that an edit list hides are not frames.
- Seconds are those of the player's clock. It begins with the earliest presented stream, picture or sound. On screen at t is the last frame
  at or before t.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

# Single-file containers. Formats that open further inputs are left out on purpose: hls, dash, concat, image2, lavfi and others.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,h264,hevc,m4v,nut,ivf,rm,y4m,yuv4mpegpipe,"
    "dv,mxf,av1,obu"
)
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MEND = "Replace the file, or write it anew: ffmpeg -i IN -c:v libx264 -an OUT.mp4"
SAME_TIME = 1e-6  # seconds; two times that differ by less are equal


@dataclass(frozen=True)
class Header:
    """The container's own description. num_frames and seconds are 0 where the container does not state them."""

    width: int
    height: int
    num_frames: int  # without those that an edit list hides
    seconds: float
    format: str = ""  # FFmpeg's names
    codec: str = ""
    pix_fmt: str | None = None


def opened(path: Path) -> Any:
    """An av.InputContainer, to be closed. A playlist with the name of a video is refused: it would open other files or addresses."""
    import av

    return av.open(str(path), options=dict(OPEN_OPTIONS))


def read_header(path: Path, limits: Limits, whole: bool = True) -> Header:
    """The container's header. Raises PllavaError when the file is empty, no video, above a limit or (`whole`) cut off."""
    import av

    check_bytes(path, limits)
    try:
        with opened(path) as container:
            return header_of(path, container, limits, whole)
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: not a readable video ({reason(error)}). {MEND}") from error


def check_bytes(path: Path, limits: Limits) -> None:
    """Raises PllavaError when the file is empty or too large."""
    size = path.stat().st_size
    if size == 0:
        raise PllavaError(f"{path}: the file is empty (0 bytes). Fetch it again")
    limits.check_bytes(path, size)


def header_of(path: Path, container: Any, limits: Limits, whole: bool) -> Header:
    """As `read_header`, of an open container."""
    stream = film(container)
    if stream is None:
        streams = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise PllavaError(f"{path}: no video stream (streams: {streams})")
    if (codec := stream.codec_context) is None:
        raise PllavaError(f"{path}: the video stream has a codec that is unknown here, or none: damaged, or too new. {MEND}")
    num_frames = stream.frames
    if container.format.name.startswith("mov"):  # the index of mp4-like containers holds each frame: its position, and whether it is shown
        entries = [(entry.pos + entry.size, entry.is_discard) for entry in stream.index_entries]
        size = path.stat().st_size
        if whole and (lost := sum(end > size for end, _ in entries)):
            raise PllavaError(
                f"{path}: cut off: {lost} of the {len(entries)} frames of its index lie past the end of the file. Fetch it again"
            )
        num_frames = max(0, num_frames - sum(hidden for _, hidden in entries))
    header = Header(
        codec.width,
        codec.height,
        num_frames,
        _seconds(container),
        container.format.name,
        codec.name,
        getattr(codec, "pix_fmt", None),
    )
    if header.width < 1 or header.height < 1:
        raise PllavaError(f"{path}: the video stream has no size: damaged or cut off. {MEND}")
    limits.check_header(path, header.width, header.height, header.num_frames, header.seconds)
    return header


def _seconds(container: Any) -> float:
    """The length that the header states; 0 without one. Matroska counts from 0, wherever the first frame is."""
    import av

    skipped = container.start_time or 0 if container.format.name.startswith("matroska") else 0
    return max(0, (container.duration or 0) - max(0, skipped)) / av.time_base


def film(container: Any) -> Any:
    """The av.VideoStream to show; None without one. Where no bit rates tell a film from its preview, the film is the larger picture."""
    from av.stream import Disposition

    if len(container.streams.video) < 2:
        return next(iter(container.streams.video), None)
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if stream.codec_context is not None] or list(container.streams.video)
    streams = [stream for stream in streams if not stream.disposition & pictures] or streams
    best = container.streams.best("video")
    if len(streams) > 1 and (best not in streams or not best.codec_context.bit_rate):
        default = [stream for stream in streams if stream.disposition & Disposition.default] or streams
        return max(default, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
    return best if best in streams else streams[0]


def time_zero(container: Any, first: float) -> float:
    """Where the player's clock begins, in seconds of the file's timestamps. first: of the first frame."""
    if container.format.name == "avi":  # an AVI has no timestamps; a decoder's delay is not a pause
        return first
    starts = [float(stream.start_time * stream.time_base) for stream in container.streams.audio if stream.start_time is not None]
    return min(first, *(max(start, 0.0) for start in starts)) if starts else first  # sound before 0 only primes the decoder


def has_times(container: Any, stream: Any) -> bool:
    """Whether the file has times of frames. An AVI only orders them, and not as on screen when there are B-frames."""
    return container.format.name != "avi" or not stream.codec_context.has_b_frames


def shown(container: Any, stream: Any, frames: Iterable[Any]) -> Iterator[tuple[Any, float, float]]:
    """Each decoded av.VideoFrame with its start and end in seconds of the player's clock."""
    spacing = float(1 / stream.average_rate) if stream.average_rate else 0.04
    zero, last, expected = None, -1.0, 0.0
    timed = has_times(container, stream)
    for frame in frames:
        own = float(frame.pts * frame.time_base) if timed and frame.pts is not None else None
        begins = zero is None
        if zero is None:
            zero = time_zero(container, own or 0.0)
        time = expected if own is None else own - zero
        if not begins and time <= last:  # the recording's clock was set back: count on from the expected time
            zero -= expected - time
            time = expected
        if frame.duration:
            spacing = float(frame.duration * frame.time_base)
        last, expected = time, time + spacing
        yield frame, time, expected


def on_screen(times: np.ndarray, seconds: float) -> int:
    """The position of the last frame at or before a time; of the first frame before anything is shown."""
    return max(0, int(np.searchsorted(times, seconds + SAME_TIME, "right")) - 1)


def turns(frame: Any) -> tuple[bool, bool, bool]:
    """How a decoded av.VideoFrame is made upright: exchange rows and columns, then reverse the rows, then the columns."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def upright(frame: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a decoded av.VideoFrame, as a player shows it."""
    if any(component.is_alpha for component in frame.format.components):
        colours = frame.to_ndarray(format="rgba").astype(np.uint16)
        alpha = colours[..., 3:]
        picture = ((colours[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        picture = frame.to_ndarray(format="rgb24")
    exchanged, rows, columns = turns(frame)
    if exchanged:
        picture = picture.swapaxes(0, 1)
    return np.ascontiguousarray(picture[:: -1 if rows else 1, :: -1 if columns else 1])


def reason(error: Exception) -> str:
    """The error's text without FFmpeg's error number and path; the callers name the path."""
    return getattr(error, "strerror", None) or str(error)
