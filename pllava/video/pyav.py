"""Reading with PyAV (FFmpeg): slower than decord, but PyAV reads every format of FFmpeg, and damage raises instead of being concealed.

Times come from the packets, without decoding. To reach a wanted frame, PyAV decodes from the last key frame before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

# Single-file containers. Formats that open further inputs are left out on purpose: hls, dash, concat, image2, lavfi and others.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,h264,hevc,m4v,nut,ivf,rm,y4m,yuv4mpegpipe,"
    "dv,mxf,av1,obu"
)
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MEND = "Replace the file, or write it anew: ffmpeg -i IN -c:v libx264 -an OUT.mp4"


@dataclass(frozen=True)
class Header:
    """The container's own description. num_frames and seconds are 0 where the container does not state them."""

    width: int
    height: int
    num_frames: int
    seconds: float
    format: str = ""  # FFmpeg's names
    codec: str = ""
    pix_fmt: str | None = None


class PyavSource:
    """A video file read with PyAV. times: seconds of each frame."""

    reader = "pyav"
    first_index = 0

    def __init__(self, path: Path, header: Header, limits: Limits) -> None:
        self.path, self.limits = path, limits
        first = next(self._frames(), None)
        if first is None:
            raise PllavaError(f"{path}: no frame decodes: damaged or cut off. {MEND}")
        self.height, self.width = upright(first).shape[:2]
        self._pts, self._keys = self._packets()  # of all frames, of key frames; in units of the stream's time base
        if self._pts and self._pts[0] == first.pts:
            base, times = float(first.time_base), [pts * float(first.time_base) for pts in self._pts]
            spacing = self._last_duration * base
        else:  # a packet without a time, or packets that do not hold one frame each
            self._pts = []
            times, spacing = self._decoded_times()
        check_whole(path, header, len(times))
        self.times = np.asarray(times) - times[0]
        self.duration = float(self.times[-1]) + spacing
        self.fps = len(times) / self.duration if self.duration > 0 else 1.0

    def get(self, indices: list[int]) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        if self._pts and self._keys:
            keys = [bisect_left(self._pts, pts) for pts in self._keys]
            self.limits.check_work(self.path, frames_on_the_way(sorted(set(indices)), keys), self.width, self.height)
        pictures = self._by_time(set(indices)) if self._pts else None
        pictures = pictures or self._by_number(set(indices))
        return np.stack([pictures[index] for index in indices])

    def _picture(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3] at the size of the first frame: the size may change within a recording."""
        picture = upright(frame)
        if picture.shape[:2] == (self.height, self.width):
            return picture
        return np.asarray(Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BICUBIC))

    def _packets(self) -> tuple[list[int], list[int]]:
        """Times of all frames, and times of the key frames, sorted. Both are empty when a packet has no time or two have the same."""
        import av

        times, keys, self._last_duration = [], [], 0
        last = None
        try:
            with av.open(str(self.path), options=dict(OPEN_OPTIONS)) as container:
                for packet in container.demux(container.streams.video[0]):
                    if not packet.size or packet.is_discard:
                        continue
                    if packet.pts is None or packet.is_corrupt:
                        return [], []
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
                    if last is None or packet.pts >= last:
                        last, self._last_duration = packet.pts, packet.duration or 0
                    if len(times) % 4096 == 0:
                        self.limits.check_header(self.path, self.width, self.height, len(times), 0)
        except (av.FFmpegError, ValueError) as error:
            raise PllavaError(f"{self.path}: damaged ({reason(error)}). {MEND}") from error
        times.sort()
        if len(set(times)) < len(times):
            return [], []
        if times and last is not None:
            seconds = (last - times[0]) * float(packet.time_base)
            self.limits.check_header(self.path, self.width, self.height, len(times), seconds)
        return times, sorted(keys)

    def _decoded_times(self) -> tuple[list[float], float]:
        """The time of each frame and the duration of the last frame, in seconds. Decodes all frames."""
        times: list[float] = []
        spacing = 0.0
        for number, frame in enumerate(self._frames()):
            if frame.duration:
                spacing = float(frame.duration * frame.time_base)
            times.append(float(frame.time) if frame.time is not None else number * spacing)
            self.limits.check_header(self.path, self.width, self.height, number + 1, times[-1] - times[0])
        return times, spacing

    def _by_time(self, wanted: set[int]) -> dict[int, np.ndarray] | None:
        """Pictures by frame number, decoded from the nearest key frames. None when the decoded times differ from the packets' times."""
        import av

        pictures: dict[int, np.ndarray] = {}
        try:
            with av.open(str(self.path), options=dict(OPEN_OPTIONS)) as container:
                stream = container.streams.video[0]
                stream.codec_context.options = {"err_detect": "explode"}
                frames = container.decode(stream)
                position = self._pts[0]
                for index in sorted(wanted):
                    pts = self._pts[index]
                    key = self._keys[max(0, bisect_right(self._keys, pts) - 1)] if self._keys else self._pts[0]
                    if key > position:
                        container.seek(key, stream=stream, backward=True)
                        frames = container.decode(stream)
                    frame = next(frame for frame in self._counted(frames) if frame.pts is None or frame.pts >= pts)
                    if frame.pts != pts:
                        return None
                    pictures[index], position = self._picture(frame), pts
        except (av.FFmpegError, ValueError, StopIteration):
            return None
        return pictures

    def _by_number(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Pictures by frame number, decoded from the start of the file."""
        pictures: dict[int, np.ndarray] = {}
        for number, frame in enumerate(self._frames()):
            if number in wanted:
                pictures[number] = self._picture(frame)
            if len(pictures) == len(wanted):
                return pictures
        raise PllavaError(f"{self.path}: damaged: {len(self.times)} frames by its index, {number + 1} decode. {MEND}")

    def _frames(self) -> Iterator[Any]:
        import av

        try:
            with av.open(str(self.path), options=dict(OPEN_OPTIONS)) as container:
                stream = container.streams.video[0]
                stream.codec_context.options = {"err_detect": "explode"}
                yield from self._counted(container.decode(stream))
        except (av.FFmpegError, ValueError) as error:
            raise PllavaError(f"{self.path}: damaged ({reason(error)}). {MEND}") from error

    def _counted(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames. Raises PllavaError when decoding exceeds the limits: not every header states the number of frames."""
        for number, frame in enumerate(frames, 1):
            self.limits.check_work(self.path, number, frame.width, frame.height)
            yield frame


def frames_on_the_way(wanted: Sequence[int], keys: Sequence[int]) -> int:
    """The number of frames to decode for the wanted frames (sorted), when decoding can begin at each of `keys`."""
    count, done = 0, -1
    for index in wanted:
        before = bisect_right(keys, index)
        begin = max(done + 1, keys[before - 1] if before else 0)
        count, done = count + index - begin + 1, index
    return count


def upright(frame: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a PyAV frame, rotated as its metadata states (decord rotates the same way)."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def check_whole(path: Path, header: Header, count: int) -> None:
    """Raises PllavaError when frames of the header are missing: a file that is cut off between two frames decodes without an error."""
    if count < 0.9 * header.num_frames:
        raise PllavaError(f"{path}: cut off: its index names {header.num_frames} frames, {count} are there. Fetch it again")


def reason(error: Exception) -> str:
    """The error's text without FFmpeg's error number and path; the callers name the path."""
    return getattr(error, "strerror", None) or str(error)
