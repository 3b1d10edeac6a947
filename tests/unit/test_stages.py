"""What alters a stage's output makes the stage stale: every such file lies under one of its dependencies in dvc.yaml."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ALTERS = {
    "render": ["pllava/data/rendered/clip.py", "pllava/data/rendered/video_writer.py"],
    "prepare": [
        "data/raw/kitchen/train.json",  # data of one's own, as the README has it
        "data/base/tiny-llava/tokenizer.json",  # counts the tokens
        "pllava/video/reader.py",
        "pllava/evaluate/mvbench.py",
        "pllava/evaluate/media_index.py",  # which clips a benchmark has
        "pllava/evaluate/vcgbench.py",
    ],
    "features": ["pllava/model/processing.py", "pllava/model/modeling.py", "pllava/data/pixels.py", "pllava/video/sampling.py"],
    "train": ["pllava/model/pooling.py", "pllava/data/feature_store.py", "pllava/video/reader.py", "pllava/train/schedule.py"],
    "evaluate": ["data/raw/MVBench/json/moving_count.json", "pllava/evaluate/letter_match.py", "pllava/model/pooling.py"],
    "report": ["pllava/evaluate/statistics.py", "pllava/evaluate/plots.py", "pllava/evaluate/mvbench.py"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_says_what_it_does_and_what_it_depends_on(stage):
    entry = STAGES[stage].get("do", STAGES[stage])
    assert entry["desc"]
    deps = [dep.replace("${item.root}", "data/raw/MVBench") for dep in entry["deps"]]  # a benchmark's root, as a recipe has it
    missing = [file for file in ALTERS[stage] if not any(Path(file).is_relative_to(dep) for dep in deps)]
    assert missing == []
