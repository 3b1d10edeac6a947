"""A package of one's own adds a pooling, a sampler, a benchmark and a judge by entry point: the examples of docs/extending.md, run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
USE = """
import json, sys
import torch
import pllava
from pllava.benchmarks.benchmark import load_benchmark
from pllava.benchmarks.judge import make_judge, rubric
from pllava.core.params import Params, load_params

base, clip, root = sys.argv[1:]
model, processor = pllava.load(base, pooling_method="brightest", device="cpu", dtype="float32")
config = model.config
features = torch.randn(2, config.num_frames, config.patch_grid[0] * config.patch_grid[1], config.vision_config.hidden_size)
with torch.no_grad():
    tokens = model.model.multi_modal_projector(features, config)
    average = pllava.load(base, device="cpu", dtype="float32")[0].model.multi_modal_projector(features, model.config.__class__.from_dict(
        {**config.to_dict(), "pooling_method": "avg"}))
frames = pllava.read_video(clip, num_frames=4, sampling="first")
benchmark = load_benchmark("yes_no")
sample = benchmark.samples(root)[0]
row = {"prediction": "Yes.", "answer": sample.answer, "error": None}
params = load_params("params.yaml").model_dump(mode="json")
params["judge"]["kind"] = "strict"
params["train"]["sampling"], params["model"]["pooling_method"] = "first", "brightest"
params["evaluate"]["benchmarks"]["yes_no"] = {"root": root, "template": "tiny"}
settings = Params.model_validate(params)
verdict = make_judge(settings.judge).score(rubric.ANSWER, question="?", answer="a", prediction="a")
print(json.dumps({
    "tokens": list(tokens.shape), "expected": [2, config.num_visual_tokens, config.text_config.hidden_size],
    "another": bool((tokens != average).any()), "last": float(frames.times.max()), "fps": frames.fps,
    "score": benchmark.score(row, None)["Yes or no"].value, "verdict": verdict.value,
}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path that holds my_extras.py and its metadata, as pip would have written them."""
    folder = tmp_path_factory.mktemp("site")
    toml, *examples = re.findall(r"```(?:toml|python)\n(.*?)```", PAGE, re.S)
    (folder / "my_extras.py").write_text("\n\n".join(examples))
    metadata = folder / "my_extras-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-extras\nVersion: 1.0\n")
    groups = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", toml)
    (metadata / "entry_points.txt").write_text(groups.replace('"', ""))
    return folder


def test_the_examples_are_found_and_used(package, tiny_base_dir, reference, tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps([{"video": "a.mp4", "question": "Does it move?", "answer": "yes"}]))
    clip = reference / "video/clip_long.mp4"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-c", USE, str(tiny_base_dir), str(clip), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["tokens"] == told["expected"]
    assert told["another"]
    assert told["last"] < 1.0
    assert (told["score"], told["verdict"]) == (1.0, 1.0)


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.S))
def test_an_example_is_short(example):
    assert len(example.strip().splitlines()) <= 30
