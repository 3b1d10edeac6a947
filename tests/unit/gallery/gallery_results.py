"""Results with known right and wrong, a clip, and what nobody should be able to smuggle through them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = '<img src=x onerror="document.title=1">"\'&</script><script>document.title=2</script>'


def result(number: int, model: str, correct: bool | None, **others: Any) -> dict[str, Any]:
    return {
        "model": model,
        "id": f"moves/{number:04d}",
        "task": "Direction" if number % 2 else "Count",
        "media": f"video/{number % 3}.mp4",
        "start": None,
        "end": None,
        "question": f"Question number {number}?",
        "candidates": ["left", "right"],
        "answer": "(A) left",
        "prediction": "(A) left" if correct else "(B) right",
        "correct": correct,
        "error": None,
    } | others


def write(folder: Path, rows: Iterable[dict[str, Any]], benchmark: str = "mvbench") -> Path:
    path = folder / benchmark / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_h264(path: Path, seed: int, size: int = 64, num_frames: int = 16) -> None:
    """A bar that moves to the right, 8 frames a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8), options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            picture = np.full((size, size, 3), 30 + 40 * seed, np.uint8)
            picture[:, 2 * index : 2 * index + 8] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
