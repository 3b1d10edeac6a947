"""The rate of every step, and which parameter is decayed, are those of the published training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pllava.stages.train.optimizer import cosine, param_groups, warmup_steps


def test_recorded_rates(reference: Path):
    for case in json.loads((reference / "optim.json").read_text())["schedules"]:
        total, ratio, floor = case["num_training_steps"], case["warmup_ratio"], case["min_lr_multi"]
        assert warmup_steps(total, ratio) == case["num_warmup_steps"]
        for step, rate in enumerate(case["lr_per_step"]):
            assert case["base_lr"] * cosine(total, ratio, floor)(step) == pytest.approx(rate, rel=1e-12, abs=1e-30)


def test_recorded_groups(reference: Path):
    for case in json.loads((reference / "optim.json").read_text())["weight_decay"]:
        if case["different_lr"] or not case["filter_bias_and_bn"]:  # no setting of ours
            continue
        named = [
            (name, torch.nn.Parameter(torch.zeros(shape), requires_grad=name not in case["frozen"]))
            for name, shape in case["param_shapes"].items()
        ]
        groups = param_groups(named, 0.02)
        found = [(group["weight_decay"], group["names"]) for group in groups]
        assert found == [(group["weight_decay"], group["params"]) for group in case["groups"]]
