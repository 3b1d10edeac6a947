"""The rate of every step, and which parameter is decayed, are those of the published training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pllava.stages.train.optimizer import param_groups
from pllava.stages.train.schedule import cosine, lr_at, warmup_steps


def test_recorded_rates(reference: Path):
    for case in json.loads((reference / "optim.json").read_text())["schedules"]:
        total, ratio, floor = case["num_training_steps"], case["warmup_ratio"], case["min_lr_multi"]
        assert warmup_steps(total, ratio) == case["num_warmup_steps"]
        for step, rate in enumerate(case["lr_per_step"]):
            assert lr_at(step, total, case["num_warmup_steps"], case["base_lr"], floor) == pytest.approx(rate, rel=1e-12, abs=1e-30)
            assert case["base_lr"] * cosine(total, ratio, floor)(step) == pytest.approx(rate, rel=1e-12, abs=1e-30)


def test_recorded_groups(reference: Path):
    for case in json.loads((reference / "optim.json").read_text())["weight_decay"]:
        named = [
            (name, torch.nn.Parameter(torch.zeros(shape), requires_grad=name not in case["frozen"]))
            for name, shape in case["param_shapes"].items()
        ]
        different = {"|".join(case["module_names"]): case["diff_lr"]} if case["different_lr"] else None
        groups = param_groups(named, 0.02, 2e-5, different, decay_all=not case["filter_bias_and_bn"])
        found = [(group["weight_decay"], group["lr"], group["names"]) for group in groups]
        assert found == [(group["weight_decay"], group["lr"], group["params"]) for group in case["groups"]]
