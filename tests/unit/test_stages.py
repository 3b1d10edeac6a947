"""What alters a stage's output makes the stage stale: every such file lies under one of its dependencies in dvc.yaml."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ALTERS = {
    "render": ["pllava/stages/render/clip.py", "pllava/stages/render/video_writer.py"],
    "prepare": [
        "data/raw/kitchen/train.json",  # data of one's own, as the README has it
        "data/base/tiny-llava/tokenizer.json",  # counts the tokens
        "pllava/video/reader.py",
        "pllava/benchmarks/mvbench.py",
        "pllava/benchmarks/media_index.py",  # which clips a benchmark has
        "pllava/benchmarks/vcgbench.py",
    ],
    "features": ["pllava/model/processing.py", "pllava/model/modeling.py", "pllava/artifacts/pixels.py", "pllava/video/sampling.py"],
    "train": ["pllava/model/pooling.py", "pllava/artifacts/feature_store.py", "pllava/video/reader.py", "pllava/stages/train/schedule.py"],
    "evaluate": ["data/raw/MVBench/json/moving_count.json", "pllava/benchmarks/letter_match.py", "pllava/model/pooling.py"],
    "report": ["pllava/benchmarks/statistics.py", "pllava/artifacts/plots.py", "pllava/benchmarks/mvbench.py"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_says_what_it_does_and_what_it_depends_on(stage):
    entry = STAGES[stage].get("do", STAGES[stage])
    assert entry["desc"]
    deps = [dep.replace("${item.root}", "data/raw/MVBench") for dep in entry["deps"]]  # a benchmark's root, as a recipe has it
    missing = [file for file in ALTERS[stage] if not any(Path(file).is_relative_to(dep) for dep in deps)]
    assert missing == []
