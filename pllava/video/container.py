"""Video files: decord first (fast, random access), PyAV when decord cannot.

Before either decodes, the header is read with PyAV under a list of allowed formats and protocols, so that a playlist in a
video's clothes cannot make the decoder open other files or addresses.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.pyav import MEND, OPEN_OPTIONS, Header, PyavSource, check_whole, frames_on_the_way, reason

log = logging.getLogger(__name__)
NARROW = 256  # pixels; only narrower rows can be padded to a multiple of their width
# decord reads 10,000 packets ahead of the frame it seeks; when that has not been decoded by then, it gives another frame without an error.
MOST_FRAMES = 10_000
NO_TIME = 1e9  # seconds; FFmpeg's mark for a time that is not known, -2^63 units, is far below minus that


def read_header(path: Path, limits: Limits, whole: bool = True) -> Header:
    """Raises PllavaError when the file is empty, is no video, has no video stream, is beyond a limit or, with `whole`, is cut off."""
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
            if (codec := stream.codec_context) is None:
                raise PllavaError(f"{path}: the video stream has a codec that is unknown here, or none: damaged, or too new. {MEND}")
            seconds = float(container.duration or 0) / av.time_base
            header = Header(
                codec.width, codec.height, stream.frames, seconds, container.format.name, codec.name, getattr(codec, "pix_fmt", None)
            )
            if whole and container.format.name.startswith("mov"):  # mp4 and its kin say where each frame is
                _check_places(path, [entry.pos + entry.size for entry in stream.index_entries], size)
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: not a readable video ({reason(error)}). {MEND}") from error
    if header.width < 1 or header.height < 1:
        raise PllavaError(f"{path}: the video stream has no size: damaged or cut off. {MEND}")
    limits.check_header(path, header.width, header.height, header.num_frames, header.seconds)
    return header


def open_container(path: Path, limits: Limits, reader: str = "auto", look: bool = True) -> DecordSource | PyavSource:
    """The first reader that can decode the file's first frame; a fall back is logged with its reason.

    look=False leaves the first frame of a wide clip alone, for who decodes others anyway: width and height are then those of the header,
    before rotation.
    """
    header = read_header(path, limits)
    if reader == "pyav":
        return PyavSource(path, header, limits)
    try:
        source = DecordSource(path, header, limits)
        if look or header.width <= NARROW:
            source.look()
        return source
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
        _check_count(header.num_frames)
        try:
            self._video = decord.VideoReader(str(path), num_threads=1, fault_tol=0)
            count = len(self._video)
            self.fps = float(self._video.get_avg_fps())
            spans = np.asarray(self._video.get_frame_timestamp(list(range(count)))).reshape(-1, 2)  # [N, 2] seconds
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        if count < 1 or not self.fps > 0:
            raise CannotDecode(f"{count} frames at {self.fps} a second")
        _check_count(count)
        if np.abs(spans).max() > NO_TIME:
            raise CannotDecode("some packets have no time")
        check_whole(path, header, count)
        self.times = spans[:, 0] - spans[0, 0]
        self.duration = float(spans[-1, 1] - spans[0, 0])
        limits.check_header(path, header.width, header.height, count, self.duration)
        self.width, self.height, self._padded = header.width, header.height, False

    def look(self) -> None:
        """Decode the first frame and see how it comes out."""
        try:
            first = self._video[0].shape
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        self.height, self.width = first[:2]  # after rotation, which the header does not apply
        self._padded = first[-1] != 3
        self._check_size()

    def get(self, indices: list[int]) -> np.ndarray:
        """uint8 [T, H, W, 3]. Damage inside the file shows only here; PyAV then says what is wrong, or reads on."""
        unique = sorted(set(indices))
        self.limits.check_work(self.path, frames_on_the_way(unique, self._video.get_key_indices()), self.width, self.height)
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
        return frames if unique == indices else frames[np.searchsorted(unique, indices)]

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
        self.height, self.width = frames.shape[1:3]
        self._check_size()
        return frames

    def _check_size(self) -> None:
        if {self.width, self.height} != {self.header.width, self.header.height}:
            raise CannotDecode(f"frames of {self.width}x{self.height}, the header says {self.header.width}x{self.header.height}")


def _check_count(num_frames: int) -> None:
    if num_frames > MOST_FRAMES:
        raise CannotDecode(f"{num_frames} frames, of more than {MOST_FRAMES} it may give others than it was asked for")


def _without_padding(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a frame [H, W, C] of decord's.

    FFmpeg pads rows for the processor's vector width; where the padded row is a whole multiple of the width (96 pixels: 384 bytes for 288),
    decord takes it for C > 3 channels, and its batch read fails. The bytes of the row are in place.
    """
    height, width = frame.shape[:2]
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _check_places(path: Path, ends: list[int], size: int) -> None:
    """ends: where each frame of the index ends, in bytes."""
    if lost := sum(end > size for end in ends):
        raise PllavaError(f"{path}: cut off: {lost} of the {len(ends)} frames of its index lie past the end of the file. Fetch it again")


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+: )+", "", line)[:300]  # decord's own source position
