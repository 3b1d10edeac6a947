"""Clips made for a test: frame i is the grey level 10 * i, modulo 250."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MakeClip = Callable[..., Path]


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """`make_clip("a.mp4", width, height, num_frames, fps, milliseconds=[...])` -> path."""

    def make(
        name: str = "clip.mp4",
        width: int = 64,
        height: int = 48,
        num_frames: int = 24,
        fps: int = 12,
        milliseconds: Sequence[int] | None = None,
        **options: str,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if milliseconds:
                stream.codec_context.time_base = Fraction(1, 1000)
            for i in range(num_frames):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), i * 10 % 250, np.uint8), format="rgb24")
                if milliseconds:
                    frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make
