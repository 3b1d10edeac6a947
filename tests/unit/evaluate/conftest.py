"""A small MVBench root in the true layout, with real H.264 clips."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest


def write_clip(path: Path, seed: int, num_frames: int = 12, size: int = 64) -> None:
    """A bright square that drifts over noise."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            frame = ground.copy()
            left = (seed * 7 + index * 3) % (size - 16)
            frame[20:36, left : left + 16] = rng.integers(150, 255, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_benchmark(root: Path, questions: int = 5) -> Path:
    """Two tasks of `questions` questions over three clips each; the last clip of the first task is damaged."""
    rng = np.random.default_rng(0)
    for number, (task, options) in enumerate(
        {"moving_direction": ["left", "right", "up", "down"], "action_count": ["0", "1", "2"]}.items()
    ):
        entries = []
        for index in range(questions):
            entry = {
                "video": f"{index % 3}.mp4",
                "question": f"{'What is it, number ' * (index + 1)}{index}?",
                "candidates": options,
                "answer": options[int(rng.integers(len(options)))],
            }
            entries.append(entry | ({"start": 0.25, "end": 0.75} if index == 4 else {}))
        (root / "json").mkdir(parents=True, exist_ok=True)
        (root / "json" / f"{task}.json").write_text(json.dumps(entries))
        for clip in range(3):
            write_clip(root / "video" / task / f"{clip}.mp4", seed=10 * number + clip)
    damaged = root / "video" / "moving_direction" / "2.mp4"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return root


@pytest.fixture(scope="session")
def benchmark_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("mvbench") / "MVBench")
