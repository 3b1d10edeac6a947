"""Files to caption, and a tiny random model that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pllava.chat import VideoChat

COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40), (40, 40, 40), (230, 230, 230)]
WriteScenes = Callable[..., Path]


@pytest.fixture(scope="session")
def chat(tiny_model: Any, tiny_processor: Any) -> VideoChat:
    return VideoChat(tiny_model, tiny_processor, "tiny")


@pytest.fixture
def write_scenes(tmp_path: Path) -> WriteScenes:
    """`write_scenes("a.mp4", [10, 25])` -> path of a file with scenes of so many frames; `milliseconds`: when each frame is shown."""

    def write(
        name: str, lengths: Sequence[int], fps: int = 10, milliseconds: Sequence[int] | None = None, gop: int = 250, **options: str
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scenes = [number for number, length in enumerate(lengths) for _ in range(length)]
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "threads": "1"})
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", gop
            if milliseconds:
                stream.codec_context.time_base = Fraction(1, 1000)
            for number, scene in enumerate(scenes):
                image = np.full((64, 96, 3), COLORS[scene % len(COLORS)], np.uint8)
                image[20:30, number % 80 : number % 80 + 10] = 128
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if milliseconds:
                    frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write
