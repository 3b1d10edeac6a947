"""Upper bounds for untrusted videos, checked on the header before anything large is decoded.

read_video(path, limits=Limits(max_seconds=600))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pllava.core.errors import PllavaError


@dataclass(frozen=True)
class Limits:
    """Upper bounds of one video. The defaults allow every video of the benchmarks, and refuse videos that would exhaust a machine."""

    max_bytes: int = 8 << 30  # size of the file, or of all files of a frame folder
    max_pixels: int = 8192 * 4320  # in one frame
    max_frames: int = 2_000_000  # in the whole file: about 9 hours at 60 a second
    max_seconds: float = 12 * 3600.0
    max_decoded_bytes: int = 4 << 30  # the frames that are returned, uint8 RGB
    max_pixels_decoded: int = 1 << 36  # of all frames that must be decoded to reach the returned ones: some minutes on one core
    max_memory: int = 8 << 30  # bytes of a reading process (`pllava.video.readers`); not checked when this process reads

    def check_bytes(self, path: object, size: int) -> None:
        self._check(path, "bytes", size, self.max_bytes, "max_bytes")

    def check_header(self, path: object, width: int, height: int, num_frames: int, seconds: float) -> None:
        self._check(path, "pixels a frame", width * height, self.max_pixels, "max_pixels")
        self._check(path, "frames", num_frames, self.max_frames, "max_frames")
        self._check(path, "seconds", seconds, self.max_seconds, "max_seconds")

    def check_decoded(self, path: object, num_frames: int, width: int, height: int) -> None:
        self._check(
            path, f"decoded bytes ({num_frames} frames)", num_frames * width * height * 3, self.max_decoded_bytes, "max_decoded_bytes"
        )

    def check_work(self, path: object, num_frames: int, width: int, height: int) -> None:
        """num_frames: all frames to decode, returned or not."""
        what = f"pixels to decode ({num_frames:,} frames of {width}x{height})"
        self._check(path, what, num_frames * width * height, self.max_pixels_decoded, "max_pixels_decoded")

    @staticmethod
    def _check(path: object, what: str, value: float, limit: float, name: str) -> None:
        if value > limit:
            raise PllavaError(f"{path}: {value:,.0f} {what}, the limit is {limit:,.0f}. Cut or scale the video, or pass Limits({name}=...)")


def time_bound(name: str, value: Any) -> float | None:
    """`value` as seconds; None stays None. Raises PllavaError for a value that is no number, or one with too many digits."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise PllavaError(f"{name} is no number of seconds, or has too many digits. Give seconds from 0, or None") from None
