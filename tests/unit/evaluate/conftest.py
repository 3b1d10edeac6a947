"""A small MVBench root in the true layout, with real H.264 clips."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from judge_server import KEY, Server
from layouts import write_clip

REFERENCE = Path(__file__).parents[2] / "reference"


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


@pytest.fixture(scope="session")
def evaluation_project(tmp_path_factory: pytest.TempPathFactory, benchmark_root: Path) -> Path:
    """A project folder as training leaves it: params.yaml and a random adapter of the recorded tiny model."""
    folder = tmp_path_factory.mktemp("project")
    import torch
    import yaml

    import pllava
    from pllava.core.params import Lora
    from pllava.model.adapter import add_lora, save_adapter

    shutil.copytree(REFERENCE / "ckpt" / "tiny56_base", folder / "base")
    shutil.copytree(benchmark_root, folder / "MVBench")
    values = {
        "data": {"train": [{"name": "none", "annotations": "none.json", "media": "."}]},
        "model": {"base": "base", "num_frames": 4, "pooling_shape": [4, 2, 2], "template": "tiny", "dtype": "float32"},
        "train": {"steps": 1, "batch_size": 1},
        "evaluate": {
            "batch_size": 3,
            "bootstrap_resamples": 200,
            "benchmarks": {"mvbench": {"root": "MVBench", "template": "eval_mvbench", "max_new_tokens": 4}},
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    model, _ = pllava.load(folder / "base", num_frames=4, pooling_shape=(4, 2, 2))
    adapted = add_lora(model, Lora(r=4, alpha=8, dropout=0, target_modules=["q_proj", "v_proj"]), seed=0)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3 if "lora_B" in name else 0.1)
    save_adapter(adapted, folder / "outputs/train/adapter", {"base": str(folder / "base")})
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("PLLAVA_JUDGE_BASE_URL", f"http://127.0.0.1:{running.server_port}/v1")
    monkeypatch.setenv("PLLAVA_JUDGE_MODEL", "judge/one:latest")
    monkeypatch.setenv("PLLAVA_JUDGE_API_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield running
    running.shutdown()
    running.server_close()
