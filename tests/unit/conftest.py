"""A project folder with a small corpus in the true layout: real H.264 clips, VideoChat2-IT annotations, one MVBench task."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pllava.core.params import Params

BASE = Path(__file__).parents[1] / "reference" / "ckpt" / "tiny56_base"
SIZE = 64


def write_clip(path: Path, seed: int, num_frames: int = 12, fps: int = 8) -> None:
    """A bright square that moves over a dark ground; another seed is another clip."""
    import av

    rng = np.random.default_rng(seed)
    color, (x, y), (dx, dy) = rng.integers(128, 255, 3), rng.integers(0, SIZE - 16, 2), rng.integers(-3, 4, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            image = np.full((SIZE, SIZE, 3), 20 + seed % 50, np.uint8)
            left, top = (x + dx * index) % (SIZE - 16), (y + dy * index) % (SIZE - 16)
            image[top : top + 16, left : left + 16] = color
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def annotation(name: str, turns: int) -> dict[str, Any]:
    questions = ["Which way does it move?", "What is the colour of the square?", "How many?", "Is it fast or slow, and where does it end?"]
    return {"video": name, "QA": [{"i": "", "q": questions[k % 4], "a": f"The answer is {k}."} for k in range(turns)]}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/raw/small: 12 training, 3 validation and 2 test clips. Read only."""
    root = tmp_path_factory.mktemp("corpus") / "small"
    for split, seeds in (("train", range(12)), ("validation", range(20, 23))):
        rows = []
        for seed in seeds:
            write_clip(root / "videos" / split / f"{seed}.mp4", seed)
            rows.append(annotation(f"{split}/{seed}.mp4", 1 + seed % 4))
        (root / f"{split}.json").write_text(json.dumps(rows))
    tests = []
    for seed in (40, 41):
        write_clip(root / "MVBench" / "video" / "moving_direction" / f"{seed}.mp4", seed)
        tests.append({"video": f"{seed}.mp4", "question": "Which way?", "candidates": ["Left.", "Right."], "answer": "Left."})
    (root / "MVBench" / "json").mkdir()
    (root / "MVBench" / "json" / "moving_direction.json").write_text(json.dumps(tests))
    return root


def make_params(**changes: Any) -> Params:
    """Params of the small corpus, changed by `section={key: value}`."""
    small = Path("data/raw/small")
    sections: dict[str, Any] = {
        "seed": 5,
        "data": {
            "train": [{"name": "small", "annotations": small / "train.json", "media": small / "videos"}],
            "validation": [{"name": "small", "annotations": small / "validation.json", "media": small / "videos"}],
            "workers": 1,
        },
        "model": {"base": str(BASE), "num_frames": 4, "pooling_shape": (4, 2, 2), "template": "tiny", "dtype": "float32"},
        "features": {"enabled": True},
        "train": {
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 2e-3,
            "max_length": 160,
            "sampling": "middle",
            "threads": 1,
            "log_every": 2,
            "validate_every": 3,
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        },
        "evaluate": {"benchmarks": {"mvbench": {"root": small / "MVBench", "template": "tiny_mvbench"}}},
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values} if isinstance(values, dict) else values
    return Params.model_validate(sections)


@pytest.fixture
def project(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """Work inside a project folder that has a copy of the corpus and nothing else; calling it gives params, changed as asked."""
    shutil.copytree(corpus, tmp_path / "data" / "raw" / "small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there: work goes on without tracking
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return make_params


@pytest.fixture(scope="session")
def prepared_data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data/ of a project after `prepare` and `features`. Read only."""
    from pllava.stages.features.run import features
    from pllava.stages.prepare.run import prepare

    root = tmp_path_factory.mktemp("prepared")
    shutil.copytree(corpus, root / "data" / "raw" / "small")
    with contextlib.chdir(root):
        prepare(make_params())
        features(make_params())
    return root / "data"


@pytest.fixture
def prepared(project: Callable[..., Params], prepared_data: Path) -> Callable[..., Params]:
    """As `project`, ready to train."""
    shutil.copytree(prepared_data, "data", dirs_exist_ok=True)
    return project


def write_gif(path: Path, side: int, num_frames: int) -> Path:
    """An animation of large frames, 23 bytes each: all of them are the same single pixel of a large screen."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x00\x05\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    path.write_bytes(head + frame * num_frames + b";")
    return path


@pytest.fixture
def big_gif(tmp_path: Path) -> Path:
    """4000 x 4000 pixels, 60,000 frames, 1.4 MB."""
    return write_gif(tmp_path / "big.gif", 4000, 60_000)


@pytest.fixture
def slow_gif(tmp_path: Path) -> Path:
    """Within the limits, but it takes some ten seconds to read."""
    return write_gif(tmp_path / "slow.gif", 2000, 2000)


@contextlib.contextmanager
def signalled(which: Callable[[Path], bool], sent: int) -> Iterator[list[int]]:
    """Send a signal to each process below this one that has such a file open. -> their ids."""
    import psutil

    pids: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if child.pid not in pids and any(which(Path(file.path)) for file in child.open_files()):
                        child.send_signal(sent)
                        pids.append(child.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield pids
    finally:
        done.set()
        thread.join()


@pytest.fixture
def signal_readers() -> Callable[[Callable[[Path], bool], int], contextlib.AbstractContextManager[list[int]]]:
    return signalled
