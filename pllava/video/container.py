"""Video files: decord first (fast, random access), PyAV when decord cannot.

Before either decodes, the header is read with PyAV under a list of allowed formats and protocols, so that a playlist in a
video's clothes cannot make the decoder open other files or addresses.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pllava.errors import PllavaError
from pllava.video.limits import Limits

log = logging.getLogger(__name__)

# Single-file containers. Left out on purpose: hls, dash, concat, image2, lavfi and others that open further inputs.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,h264,hevc,m4v,nut,ivf,rm,y4m,yuv4mpegpipe,"
    "dv,mxf,av1,obu"
)
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MEND = "Replace the file, or write it anew: ffmpeg -i IN -c:v libx264 -an OUT.mp4"


@dataclass(frozen=True)
class Header:
    """What the container says of itself; num_frames and seconds are 0 where it says nothing."""

    width: int
    height: int
    num_frames: int
    seconds: float


def read_header(path: Path, limits: Limits) -> Header:
    """Raises PllavaError when the file is empty, is no video, has no video stream, or is beyond a limit."""
    import av

    size = path.stat().st_size
    if size == 0:
        raise PllavaError(f"{path}: the file is empty (0 bytes). Fetch it again")
    limits.check_bytes(path, size)
    try:
        with av.open(str(path), options=dict(OPEN_OPTIONS)) as container:
            if not container.streams.video:
                streams = ", ".join(sorted({s.type for s in container.streams})) or "none"
                raise PllavaError(f"{path}: no video stream (streams: {streams})")
            stream = container.streams.video[0]
            seconds = float(container.duration or 0) / av.time_base
            header = Header(stream.width, stream.height, stream.frames, seconds)
            if container.format.name.startswith("mov"):  # mp4 and its kin say where each frame is
                _check_places(path, [entry.pos + entry.size for entry in stream.index_entries], size)
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: not a readable video ({_reason(error)}). {MEND}") from error
    if header.width < 1 or header.height < 1:
        raise PllavaError(f"{path}: the video stream has no size: damaged or cut off. {MEND}")
    limits.check_header(path, header.width, header.height, header.num_frames, header.seconds)
    return header


def open_container(path: Path, limits: Limits, reader: str = "auto") -> DecordSource | PyavSource:
    """The first reader that can decode the file's first frame; a fall back is logged with its reason."""
    header = read_header(path, limits)
    if reader == "pyav":
        return PyavSource(path, header, limits)
    try:
        return DecordSource(path, header, limits)
    except CannotDecode as error:
        if reader == "decord":
            raise PllavaError(f"{path}: decord cannot read it ({error}). Try reader='pyav' or reader='auto'") from error
        log.warning("%s: reading with PyAV, decord cannot: %s", path, error)
        return PyavSource(path, header, limits)


class CannotDecode(Exception):
    """decord gave up; PyAV may still read the file."""


class DecordSource:
    reader = "decord"
    first_index = 0

    def __init__(self, path: Path, header: Header, limits: Limits) -> None:
        import decord

        self.path, self.header, self.limits = path, header, limits
        self._errors = (RuntimeError, decord.DECORDError, IndexError)  # DECORDError is not a RuntimeError
        try:
            self._video = decord.VideoReader(str(path), num_threads=1, fault_tol=0)
            count = len(self._video)
            self.fps = float(self._video.get_avg_fps())
            spans = np.asarray(self._video.get_frame_timestamp(list(range(count)))).reshape(-1, 2)  # [N, 2] seconds
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        if count < 1 or not self.fps > 0:
            raise CannotDecode(f"{count} frames at {self.fps} a second")
        _check_whole(path, header, count)
        self.times = spans[:, 0] - spans[0, 0]
        self.duration = float(spans[-1, 1] - spans[0, 0])
        limits.check_header(path, header.width, header.height, count, self.duration)
        try:
            first = self._video[0].shape
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        self.height, self.width = first[:2]  # after rotation, which the header does not apply
        self._padded = first[-1] != 3
        if {self.width, self.height} != {header.width, header.height}:
            raise CannotDecode(f"frames of {self.width}x{self.height}, the header says {header.width}x{header.height}")

    def get(self, indices: list[int]) -> np.ndarray:
        """uint8 [T, H, W, 3]. Damage inside the file shows only here; PyAV then says what is wrong, or reads on."""
        unique = sorted(set(indices))
        try:
            frames = self._decode(unique)
        except CannotDecode as error:
            log.warning("%s: reading with PyAV, decord cannot: %s", self.path, error)
            other = PyavSource(self.path, self.header, self.limits)
            if len(other.times) != len(self.times):
                raise PllavaError(
                    f"{self.path}: damaged: {len(self.times)} frames by its index, {len(other.times)} decode. {MEND}"
                ) from error
            self.reader = other.reader
            return other.get(indices)
        return frames[np.searchsorted(unique, indices)]

    def _decode(self, indices: list[int]) -> np.ndarray:
        try:
            if not self._padded:
                frames = self._video.get_batch(indices).asnumpy()
            else:
                frames = np.stack([_without_padding(self._video[index].asnumpy()) for index in indices])
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise CannotDecode(f"frames of shape {frames.shape}")
        return frames


class PyavSource:
    """Decodes from the start: slower, but reads what FFmpeg reads. Damage raises instead of being concealed."""

    reader = "pyav"
    first_index = 0

    def __init__(self, path: Path, header: Header, limits: Limits) -> None:
        self.path = path
        times: list[float] = []
        spacing = 0.0  # seconds that the frame at hand is shown
        for number, frame in enumerate(self._frames()):
            if number == 0:
                self.height, self.width = _upright(frame).shape[:2]
            if frame.duration:
                spacing = float(frame.duration * frame.time_base)
            times.append(float(frame.time) if frame.time is not None else number * spacing)
            limits.check_header(path, self.width, self.height, number + 1, times[-1] - times[0])
        if not times:
            raise PllavaError(f"{path}: no frame decodes: damaged or cut off. {MEND}")
        _check_whole(path, header, len(times))
        self.times = np.asarray(times) - times[0]
        self.duration = float(self.times[-1]) + spacing
        self.fps = len(times) / self.duration if self.duration > 0 else 1.0

    def get(self, indices: list[int]) -> np.ndarray:
        wanted, last = set(indices), max(indices)
        found: dict[int, np.ndarray] = {}
        for number, frame in enumerate(self._frames()):
            if number in wanted:
                found[number] = _upright(frame)
            if number == last:
                break
        return np.stack([found[index] for index in indices])

    def _frames(self) -> Any:
        import av

        try:
            with av.open(str(self.path), options=dict(OPEN_OPTIONS)) as container:
                stream = container.streams.video[0]
                stream.codec_context.options = {"err_detect": "explode"}
                yield from container.decode(stream)
        except (av.FFmpegError, ValueError) as error:
            raise PllavaError(f"{self.path}: damaged ({_reason(error)}). {MEND}") from error


def _without_padding(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a frame [H, W, C] of decord's.

    FFmpeg pads rows for the processor's vector width; where the padded row is a whole multiple of the width (96 pixels: 384 bytes for 288),
    decord takes it for C > 3 channels, and its batch read fails. The bytes of the row are in place.
    """
    height, width = frame.shape[:2]
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _upright(frame: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a PyAV frame, with the rotation its metadata asks for (as decord applies it)."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _check_places(path: Path, ends: list[int], size: int) -> None:
    """ends: where each frame of the index ends, in bytes."""
    if lost := sum(end > size for end in ends):
        raise PllavaError(f"{path}: cut off: {lost} of the {len(ends)} frames of its index lie past the end of the file. Fetch it again")


def _check_whole(path: Path, header: Header, count: int) -> None:
    """A file cut off between two frames decodes without an error: only the number of frames in its header tells."""
    if count < 0.9 * header.num_frames:
        raise PllavaError(f"{path}: cut off: its index names {header.num_frames} frames, {count} are there. Fetch it again")


def _reason(error: Exception) -> str:
    """Without FFmpeg's error number and the path, which stands before."""
    return getattr(error, "strerror", None) or str(error)


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+: )+", "", line)[:300]  # decord's own source position
