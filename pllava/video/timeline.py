"""The presented frames of a video file with their times, from its packets, without decoding: `timeline(path, limits)`.

The same look decides whether decord may read the file. decord counts frames in the order of the file from a key frame, so it is wrong
where that is not the order on screen; and it takes the times of packets for those of frames.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.presentation import (
    MEND,
    Header,
    check_bytes,
    film,
    has_times,
    header_of,
    opened,
    reason,
    shown,
    time_zero,
    turns,
    upright,
)

NOT_TURNED = struct.pack(">6i", 1 << 16, 0, 0, 0, 1 << 16, 0)  # a, b, u, c, d, v of ISO 14496-12
LARGEST_INDEX = 1 << 26  # bytes
SAME_STAMP = "two packets have the same time"
EXACT = ("mov", "matroska")  # formats that seek to a key frame by an index, never by guess; FFmpeg's names begin so


@dataclass
class Timeline:
    """The presented frames of a video file."""

    header: Header
    width: int  # pixels, upright
    height: int
    times: np.ndarray  # float64 [N], seconds of the player's clock
    duration: float  # seconds of the player's clock at the end of the last frame
    fps: float  # average
    pts: list[int] = field(default_factory=list)  # of each frame, in the stream's units; empty: only decoding tells
    keys: list[int] = field(default_factory=list)  # the frames where decoding can begin
    seconds: tuple[float, float] = (0.0, 0.0)  # the file's own timestamps of the first and the last frame
    doubt: str = ""  # why decord may give other frames
    turned: np.ndarray | None = None  # the first frame, uint8 [H, W, 3], where the display matrix turns it


@dataclass
class _Packets:
    """What the packets tell, in the order of the file."""

    pts: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # positions in `pts`
    hidden: int = 0  # by an edit list
    last_duration: int = 0
    unsure: str = ""  # why the packets don't tell the times of frames
    doubt: str = ""  # why decord may give other frames
    first: Any = None  # the decoded av.VideoFrame of the first packet, unless the container says that it is not turned


def timeline(path: Path, limits: Limits) -> Timeline:
    """Raises PllavaError when the file is no video, damaged, cut off or above a limit."""
    import av

    check_bytes(path, limits)
    try:
        with opened(path) as container:
            header = header_of(path, container, limits, whole=True)
            try:
                line = _from_packets(path, container, header, limits)
            except (av.FFmpegError, ValueError) as error:
                raise PllavaError(f"{path}: damaged ({reason(error)}). {MEND}") from error
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: not a readable video ({reason(error)}). {MEND}") from error
    if line.doubt:
        first = next(decoded(path, limits), None)
        if first is None:
            raise PllavaError(f"{path}: no frame decodes: damaged or cut off. {MEND}")
        line.height, line.width = upright(first[0]).shape[:2]
        if not len(line.times) or (line.pts and line.pts[0] != first[0].pts):
            _decode_times(line, path, limits)
    if len(line.times) < 0.9 * header.num_frames:  # a file that is cut off between two frames decodes without an error
        raise PllavaError(f"{path}: cut off: its index names {header.num_frames} frames, {len(line.times)} are there. Fetch it again")
    limits.check_header(path, line.width, line.height, len(line.times), line.duration)
    return line


def decoded(path: Path, limits: Limits) -> Iterator[tuple[Any, float, float]]:
    """Each decoded av.VideoFrame of the file with its start and end, as `presentation.shown`. Raises PllavaError at any damage."""
    import av

    try:
        with opened(path) as container:
            stream = film(container)
            stream.codec_context.options = {"err_detect": "explode"}
            yield from shown(container, stream, counted(path, container.decode(stream), limits))
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: damaged ({reason(error)}). {MEND}") from error


def counted(path: Path, frames: Iterator[Any], limits: Limits) -> Iterator[Any]:
    """The frames. Raises PllavaError when decoding exceeds the limits: not every header states the number of frames."""
    for number, frame in enumerate(frames, 1):
        limits.check_work(path, number, frame.width, frame.height)
        yield frame


def _from_packets(path: Path, container: Any, header: Header, limits: Limits) -> Timeline:
    from av import VideoFormat

    stream = film(container)
    exact = container.format.name.startswith(EXACT)
    packets = _scan(path, container, stream, header, limits, exact)
    line = Timeline(header, header.width, header.height, np.zeros(0), 0.0, 1.0, doubt=packets.unsure or packets.doubt)
    if not exact:
        line.doubt = f"it does not seek to the frame in {container.format.name.split(',')[0]}"
    elif len(container.streams.video) > 1:
        line.doubt = "the file has several video streams"
    elif packets.hidden:
        line.doubt = f"an edit list hides {packets.hidden} frames"
    elif header.pix_fmt and any(component.is_alpha for component in VideoFormat(header.pix_fmt).components):
        line.doubt = line.doubt or "the picture is transparent"
    elif packets.first is not None:
        exchanged, rows, columns = turns(packets.first)
        if (exchanged + rows + columns) % 2:
            line.doubt = line.doubt or "the display matrix mirrors the picture"
        elif not line.doubt and (rows or columns):
            line.turned = upright(packets.first)
        if exchanged:
            line.width, line.height = header.height, header.width
    base = float(stream.time_base)
    if container.format.name == "mpeg" and packets.unsure in ("", SAME_STAMP) and stream.average_rate:
        _even_times(line, stream, np.asarray(packets.pts) * base, container)
    if packets.unsure or len(line.times):
        return line
    order = np.argsort(packets.pts, kind="stable")
    pts = np.asarray(packets.pts)[order]
    line.pts, line.seconds = pts.tolist(), (float(pts[0] * base), float(pts[-1] * base))
    ranks = np.argsort(order)[packets.keys]
    line.keys = sorted(ranks.tolist())
    if not line.doubt and ranks.tolist() != packets.keys:
        line.doubt = "frames before a key frame follow it in the file (open GOP)"
    line.times = pts * base - time_zero(container, line.seconds[0])
    _set_rate(line, stream, packets.last_duration * base)
    return line


def _even_times(line: Timeline, stream: Any, stamps: np.ndarray, container: Any) -> None:
    """Set evenly spaced times for a program stream of constant rate, which is then read from its start.

    A program stream has a stamp for some frames only. FFmpeg guesses the others, gives a stamp twice now and then, and after a seek to the
    wrong frame. stamps: seconds [N], in the order of the file.
    """
    spacing, first = float(1 / stream.average_rate), float(stamps.min())
    if abs(float(stamps.max() - first) / spacing - (len(stamps) - 1)) < 2.5:
        line.times = first - time_zero(container, first) + spacing * np.arange(len(stamps))
        line.seconds = (first, float(stamps.max()))
        _set_rate(line, stream, spacing)


def _scan(path: Path, container: Any, stream: Any, header: Header, limits: Limits, exact: bool) -> _Packets:
    packets = _Packets()
    codec, times = stream.codec_context, packets.pts
    may_hide, has_idr = header.codec in ("vp8", "libvpx"), exact and header.codec == "h264"
    latest, latest_key = None, None
    if not has_times(container, stream):
        packets.unsure = "the file has no times"
        return packets
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_discard:
            packets.hidden += 1
            continue
        pts, number = packet.pts, len(times)
        if pts is None or packet.is_corrupt:
            packets.unsure = "a packet is damaged" if pts is not None else "some packets have no time"
            return packets
        if may_hide and not memoryview(packet)[0] & 0x10:
            continue  # an alternate reference, never shown
        if packet.is_keyframe:
            if latest_key is not None and pts <= latest_key:
                packets.unsure = "the clock of the recording was set back"
                return packets
            latest_key = pts
            packets.keys.append(number)
            if number and has_idr and not _is_idr(codec.extradata, memoryview(packet)):
                packets.doubt = "a key frame is not the start of a new picture sequence (no IDR)"
        if not number and exact:
            if not packet.is_keyframe:
                packets.doubt = "its first packet is no whole picture"
            elif not _is_plain(path):
                packets.first = _picture(codec, packet)
                packets.doubt = "" if packets.first else "its first packet is no whole picture"
        times.append(pts)
        if latest is None or pts >= latest:
            latest, packets.last_duration = pts, packet.duration or 0
        if number % 4096 == 4095:
            limits.check_header(path, header.width, header.height, number, 0)
    if not times:
        packets.unsure = "no packet has a time"
    elif len(set(times)) < len(times):
        packets.unsure = SAME_STAMP
    else:
        seconds = (max(times) - min(times)) * float(stream.time_base)
        limits.check_header(path, header.width, header.height, len(times), seconds)
    return packets


def _picture(codec: Any, packet: Any) -> Any:
    """The av.VideoFrame of a packet that stands alone; None when it does not decode."""
    import av

    try:
        return next(iter([*codec.decode(packet), *codec.decode(None)]), None)
    except (av.FFmpegError, ValueError):
        return None


def _is_plain(path: Path) -> bool:
    """Whether every display matrix of an MP4 leaves the picture as it is. False for other files."""
    boxes = b""
    with path.open("rb") as file:
        while len(head := file.read(16)) == 16:
            size, name, large = struct.unpack(">I4sQ", head)
            size = large if size == 1 else size
            start = file.tell() - 16
            if name == b"moov":
                file.seek(start)
                boxes = file.read(min(size, LARGEST_INDEX))
            if boxes or size < 8:
                break
            file.seek(start + size)
    plain = 0
    for name, at in ((b"mvhd", 40), (b"tkhd", 44)):  # bytes from the name to the matrix
        for box in re.finditer(name, boxes):
            at_matrix = box.start() + at + (12 if boxes[box.end() : box.end() + 1] == b"\1" else 0)  # version 1: longer times
            if boxes[at_matrix : at_matrix + 24] != NOT_TURNED:
                return False
            plain += 1
    return plain > 1


def _is_idr(extradata: bytes | None, packet: memoryview) -> bool:
    """Whether the first picture in an H.264 packet is an IDR picture. extradata: avcC, which has the bytes of a length."""
    if not extradata or len(extradata) < 5 or extradata[0] != 1:
        return False
    length, at = (extradata[4] & 3) + 1, 0
    while at + length < len(packet):
        kind = packet[at + length] & 31
        if 1 <= kind <= 5:  # a slice
            return kind == 5
        at += length + int.from_bytes(packet[at : at + length], "big")
    return False


def _set_rate(line: Timeline, stream: Any, last: float) -> None:
    """Set the average rate and the end. last: seconds of the last frame, 0 when unknown."""
    count, span = len(line.times), float(line.times[-1] - line.times[0])
    rate = float(stream.average_rate or 0)
    last = last or (span / (count - 1) if count > 1 else 1 / rate if rate else 0.0)
    line.duration = float(line.times[-1]) + last
    counted_rate = count / (span + last) if span + last > 0 else 1.0
    line.fps = rate if abs(rate - counted_rate) < 0.01 * counted_rate else counted_rate


def _decode_times(line: Timeline, path: Path, limits: Limits) -> None:
    """Set the times from the frames, all of which are decoded."""
    times: list[float] = []
    for number, (_, time, end) in enumerate(decoded(path, limits), 1):
        times.append(time)
        line.duration = end
        limits.check_header(path, line.width, line.height, number, time - times[0])
    line.pts, line.keys, line.times = [], [], np.asarray(times)
    span = line.duration - times[0]
    line.fps = len(times) / span if span > 0 else 1.0
