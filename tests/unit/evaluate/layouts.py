"""Every benchmark in its published layout, a few questions each, with clips that are rendered here: `write_layout("tgif_qa", root)`."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pllava.benchmarks.benchmark import GROUP, OWN
from pllava.benchmarks.mvbench import TASKS
from pllava.core import plugins

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4"}


def write_clip(path: Path, seed: int, num_frames: int = 12, size: int = 64) -> None:
    """A bright square that drifts over noise, as a video, a GIF, or (no suffix) a folder of numbered frames."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for index in range(num_frames):
        frame = ground.copy()
        left = (seed * 7 + index * 3) % (size - 16)
        frame[20:36, left : left + 16] = rng.integers(150, 255, 3)
        frames.append(frame)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest, duration=80)
        return
    if not path.suffix:
        path.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{index + 1:05d}.jpg")
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=12)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_layout(name: str, root: Path) -> Path:
    """The data root of one shipped benchmark; gives what `evaluate.benchmarks.<name>.root` would be."""
    writers = {"mvbench": _mvbench, "vcgbench": _vcgbench, "recaption": _recaption}
    return writers[name](root) if name in writers else _video_qa(root, *VIDEO_QA[name])


# folder of the set, prefix of its files' names, suffix
PUBLISHED = [name for name in plugins.names(GROUP) if name != OWN]
VIDEO_QA = {
    "msvd_qa": ("MSVD_Zero_Shot_QA", "", ".avi"),
    "msrvtt_qa": ("MSRVTT_Zero_Shot_QA", "", ".mp4"),
    "activitynet_qa": ("ActivityNet", "v_", ".mkv"),
    "tgif_qa": ("TGIF_QA", "", ".gif"),
}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _mvbench(root: Path) -> Path:
    """All twenty tasks, two questions each, in the folders of the published release."""
    for number, (stem, (_, folder, bounded)) in enumerate(TASKS.items()):
        frames = stem == "episodic_reasoning"
        video = f"{stem}_clip" + ("" if frames else ".mp4")
        write_clip(root / "video" / folder / video, seed=number)
        entry = {"video": video, "candidates": ["left", "right", "up"], "answer": "right"}
        entry |= {"start": 0.2, "end": 0.9} if bounded else {}
        write_json(root / "json" / f"{stem}.json", [entry | {"question": f"Which way, {index}?"} for index in range(2)])
    return root


def _video_qa(root: Path, folder: str, prefix: str, suffix: str) -> Path:
    """Six questions on three clips; the root holds other sets, too."""
    names = ["clipA", "clip.B", "clipC"]
    for number, name in enumerate(names):
        write_clip(root / folder / "videos" / f"{prefix}{name}{suffix}", seed=number)
    questions = [{"video_name": names[index % 3], "question": f"what is it, {index}?", "question_id": index} for index in range(6)]
    answers = [{"answer": ["a square", "noise", "right"][index % 3], "type": 1, "question_id": index} for index in range(6)]
    write_json(root / folder / "test_q.json", questions)
    write_json(root / folder / "test_a.json", answers)
    (root / "another_set").mkdir()
    return root


def _vcgbench(root: Path) -> Path:
    folder = root / "Zero_Shot_QA" / "Benchmarking_QA"
    for number, name in enumerate(["v_one", "v_two"]):
        write_clip(root / "Videos" / "Benchmarking" / f"{name}.mp4", seed=number)
    for kind in ("generic", "temporal"):
        entries = [{"video_name": f"v_{clip}", "Q": f"What happens, {kind}?", "A": "A square moves."} for clip in ("one", "two")]
        write_json(folder / f"{kind}_qa.json", entries)
    pair = {"video_name": "v_one", "Q1": "What moves?", "Q2": "Which thing does not stay where it is?", "A": "A square."}
    write_json(folder / "consistency_qa.json", [pair])
    return root


def _recaption(root: Path) -> Path:
    write_clip(root / "60fps" / "UHD" / "1.mp4", seed=1)
    write_clip(root / "60fps" / "UHD" / "2.mp4", seed=2)
    write_json(root / "Inter4K.json", [{"video_name": "1.mp4", "caption": "A square drifts over noise."}, {"video_name": "2.mp4"}])
    return root
