"""Video files: decord first (fast, random access), PyAV when decord cannot.

PyAV reads the header first, with a list of allowed formats and protocols. A playlist with the name of a video is refused there, so it
cannot make a decoder open other files or addresses.
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
NARROW = 256  # pixels; only in narrower frames can a padded row be a multiple of the width
# decord reads at most 10,000 packets to reach a frame. When the frame is not decoded by then, decord returns another without an error.
MOST_FRAMES = 10_000
NO_TIME = 1e9  # seconds; FFmpeg marks an unknown time with -2^63 units, far below -NO_TIME


def read_header(path: Path, limits: Limits, whole: bool = True) -> Header:
    """The container's header. Raises PllavaError when the file is empty, no video, above a limit or (`whole`) cut off."""
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
            if whole and container.format.name.startswith("mov"):  # the index of mp4-like containers holds the position of each frame
                _check_frame_ends(path, [entry.pos + entry.size for entry in stream.index_entries], size)
    except (av.FFmpegError, ValueError) as error:
        raise PllavaError(f"{path}: not a readable video ({reason(error)}). {MEND}") from error
    if header.width < 1 or header.height < 1:
        raise PllavaError(f"{path}: the video stream has no size: damaged or cut off. {MEND}")
    limits.check_header(path, header.width, header.height, header.num_frames, header.seconds)
    return header


def open_container(path: Path, limits: Limits, reader: str = "auto", look: bool = True) -> DecordSource | PyavSource:
    """The first reader that can decode the file's first frame. A fallback to PyAV is logged with its reason.

    look=False does not decode the first frame of a wide clip: decord's width and height then come from the header, before rotation.
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
    """decord cannot decode the file; PyAV may."""


class DecordSource:
    """A video file read with decord. times: seconds of each frame."""

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
        """Decode the first frame: set the size after rotation, and whether rows are padded. Raises CannotDecode."""
        try:
            first = self._video[0].shape
        except self._errors as error:
            raise CannotDecode(_first_line(error)) from error
        self.height, self.width = first[:2]  # after rotation, which the header does not apply
        self._padded = first[-1] != 3
        self._check_size()

    def get(self, indices: list[int]) -> np.ndarray:
        """uint8 [T, H, W, 3]. When decord fails inside the file, PyAV reads the frames, or raises PllavaError."""
        unique = sorted(set(indices))
        self.limits.check_work(self.path, frames_on_the_way(unique, self._video.get_key_indices()), self.width, self.height)
        try:
            frames = self._decode(unique)
        except CannotDecode as error:
            log.warning("%s: reading with PyAV, decord cannot: %s", self.path, error)
            pyav = PyavSource(self.path, self.header, self.limits)
            if len(pyav.times) != len(self.times):
                raise PllavaError(
                    f"{self.path}: damaged: {len(self.times)} frames by its index, {len(pyav.times)} decode. {MEND}"
                ) from error
            self.reader = pyav.reader
            return pyav.get(indices)
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
    """uint8 [H, W, 3] from decord's frame [H, W, C].

    FFmpeg pads rows to the processor's vector width. Where the padded row is a whole multiple of the width (96 pixels: 384 bytes for 288),
    decord reports C > 3 channels, and its batch read fails. The pixels are still the first 3 * W bytes of each row.
    """
    height, width = frame.shape[:2]
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _check_frame_ends(path: Path, ends: list[int], size: int) -> None:
    """Raises PllavaError when frames of the index end behind the end of the file. ends: last byte of each frame. size: of the file."""
    if lost := sum(end > size for end in ends):
        raise PllavaError(f"{path}: cut off: {lost} of the {len(ends)} frames of its index lie past the end of the file. Fetch it again")


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+: )+", "", line)[:300]  # without decord's source position
