"""Every frame of a video once, from the first to the last, in constant memory: `for frame in FrameStream("long.mp4"): ...`

Damaged parts are skipped, and `notes` name them: after an error decoding goes on at the next key frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.presentation import MEND, Header, film, opened, read_header, reason, shown, upright
from pllava.video.reader import kind_of_path, readable
from pllava.video.stills import FolderSource, ImageSource, animation, check_animation, rgb

CHECK_EVERY = 256  # frames between two checks of the limits


class StreamFrame:
    """One frame. time, end: seconds of the clock that a player shows."""

    def __init__(self, number: int, time: float, end: float, picture: Any) -> None:
        self.number, self.time, self.end = number, time, end
        self._picture = picture  # av.VideoFrame, or uint8 [H, W, 3]
        self._made: np.ndarray | None = None

    def image(self) -> np.ndarray:
        """uint8 [H, W, 3], RGB, upright."""
        return self._picture if isinstance(self._picture, np.ndarray) else upright(self._picture)

    def made_into(self, picture: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`picture(image())`. The first call's result is kept for later calls."""
        if self._made is None:
            self._made = picture(self.image())
        return self._made

    def small(self, side: int) -> np.ndarray:
        """uint8 [h, w, 3], BGR (OpenCV's order), the longer side at most `side`; not turned upright."""
        width, height = (
            (self._picture.shape[1::-1]) if isinstance(self._picture, np.ndarray) else (self._picture.width, self._picture.height)
        )
        scale = min(1.0, side / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if isinstance(self._picture, np.ndarray):
            return np.ascontiguousarray(np.asarray(Image.fromarray(self._picture).resize(size, Image.Resampling.BOX))[..., ::-1])
        return self._picture.reformat(*size, format="bgr24", interpolation="AREA").to_ndarray()


class FrameStream:
    """Iterate once over StreamFrames. Afterwards `num_frames`, `duration` (seconds) and `notes` describe the frames that were read."""

    def __init__(self, path: str | Path, limits: Limits | None = None) -> None:
        """Raises PllavaError when the file is unreadable; a file that is cut off is readable."""
        self.path, self.limits = Path(path), limits or Limits()
        self.notes: list[str] = []
        self.num_frames, self.duration = 0, 0.0
        self.header: Header | None = None  # of a video
        self._kind = kind_of_path(self.path)
        with readable(self.path):
            if self._kind == "animation":
                check_animation(self.path, self.limits)
            if self._kind == "video":
                self.header = read_header(self.path, self.limits, whole=False)

    def __iter__(self) -> Iterator[StreamFrame]:
        with readable(self.path):
            yield from self._frames()

    def _frames(self) -> Iterator[StreamFrame]:
        for frame in self._video() if self._kind == "video" else self._animation() if self._kind == "animation" else self._pictures():
            self.num_frames, self.duration = frame.number + 1, frame.end
            if frame.number % CHECK_EVERY == 0:
                self.limits.check_header(self.path, 0, 0, self.num_frames, frame.time)
            yield frame
        if not self.num_frames:
            raise PllavaError(f"{self.path}: no frame decodes: damaged or cut off. {MEND}")
        if self._kind == "video":
            self._compare_with_header()

    def _pictures(self) -> Iterator[StreamFrame]:
        source = FolderSource(self.path, self.limits) if self._kind == "folder" else ImageSource(self.path, self.limits)
        for number in range(len(source.times)):
            time = float(source.times[number])
            yield StreamFrame(number, time, time + 1 / source.fps, source.get([number + source.first_index])[0])

    def _animation(self) -> Iterator[StreamFrame]:
        try:
            for number, (image, start, end) in enumerate(animation(self.path, self.limits)):
                yield StreamFrame(number, start, end, rgb(image))
        except PllavaError as error:
            if not self.num_frames or "the limit is" in str(error):
                raise
            self._note(f"cannot be read further than {self.duration:.2f} s")

    def _video(self) -> Iterator[StreamFrame]:
        import av

        try:
            with opened(self.path) as container:
                stream = film(container)
                stream.codec_context.options = {"err_detect": "explode"}
                stream.thread_type = "AUTO"
                size: tuple[int, int] | None = None
                for number, (frame, start, end) in enumerate(shown(container, stream, self._decoded(container, stream))):
                    size = size or (frame.width, frame.height)
                    yield StreamFrame(number, start, end, frame if size == (frame.width, frame.height) else frame.reformat(*size))
        except (av.FFmpegError, ValueError) as error:
            self._note(f"cannot be read further than {self.duration:.2f} s ({reason(error)})")

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded av.VideoFrames. After an error, the packets up to the next key frame are skipped."""
        import av

        damaged_since: float | None = None
        for packet in container.demux(stream):
            if damaged_since is not None and packet.size and not packet.is_keyframe:
                continue
            try:
                if packet.is_corrupt:
                    raise ValueError("a packet is cut off")
                frames = packet.decode()
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, av.EOFError):
                    return
                if damaged_since is None:
                    damaged_since = self.duration
                    self._note(f"damaged after {self.duration:.2f} s ({reason(error)}), read on at the next key frame, if any")
                stream.codec_context.flush_buffers()
                continue
            if frames:
                damaged_since = None
            yield from frames

    def _compare_with_header(self) -> None:
        """Add a note when the frames that were read are fewer, or end earlier, than the header states."""
        header = self.header
        assert header is not None
        if header.num_frames and self.num_frames < 0.99 * header.num_frames:
            self._note(f"cut off or damaged: its index names {header.num_frames} frames, {self.num_frames} could be read")
        elif header.seconds - self.duration > max(2.0, 0.1 * header.seconds):
            self._note(f"its header says {header.seconds:.2f} s, the frames end at {self.duration:.2f} s")

    def _note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < 100:
            self.notes.append(text)
