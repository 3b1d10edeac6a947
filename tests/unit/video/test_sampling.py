"""The frame rules are the published ones, number for number."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.video.sampling import demo_indices, eval_indices, repeat_indices, train_indices


def test_recorded_rules(reference: Path):
    tables = json.loads((reference / "index_rules.json").read_text())
    for case in tables["eval_get_index"]:
        args = (case["num_segments"], case["max_frame"] + 1, case["fps"], case["bound"], case["first_idx"])
        assert eval_indices(*args) == case["indices"], case
    for case in tables["demo_get_index"]:
        assert demo_indices(case["num_segments"], case["vlen"]) == case["indices"], case
    for case in tables["train_get_frame_indices"]:
        rng = random.Random(case.get("python_random_seed"))
        args = (case["num_frames"], case["vlen"], case["sample"], case["input_fps"], case["max_num_frames"], case["fix_start"], rng)
        assert train_indices(*args) == case["indices"], case
        if case["sample"] == "rand":  # without a source of its own: Python's generator, which the published code used
            random.seed(case["python_random_seed"])
            assert train_indices(*args[:-1]) == case["indices"], case


def test_recorded_repetition(reference: Path):
    for case in json.loads((reference / "train_text.json").read_text())["frame_repeat"]:
        assert repeat_indices(case["num_frames"], case["given"]) == case["source_frame_of_each"], case


def test_even_repetition_loses_no_frame():
    for given in range(1, 17):
        assert sorted(set(repeat_indices(16, given, even=True))) == list(range(given))


@pytest.mark.parametrize("num_frames", [1, 4, 16])
@pytest.mark.parametrize("total", [1, 2, 5, 16, 17, 100])
def test_random_frames_are_ordered_and_inside(num_frames: int, total: int):
    for seed in range(20):
        indices = train_indices(num_frames, total, "rand", rng=random.Random(seed))
        assert len(indices) == num_frames
        assert indices == sorted(indices)
        assert indices[0] >= 0
        assert indices[-1] < total


def test_what_cannot_be_sampled():
    for call in (lambda: eval_indices(0, 10, 25.0), lambda: train_indices(4, 0), lambda: demo_indices(4, 0)):
        with pytest.raises(PllavaError, match="at least 1"):
            call()
    for rule in ("fps", "fps0", "fps-1", "fpsx"):
        with pytest.raises(PllavaError, match="rate above 0"):
            train_indices(4, 10, rule)
    with pytest.raises(PllavaError, match="unknown"):
        train_indices(4, 10, "last")
