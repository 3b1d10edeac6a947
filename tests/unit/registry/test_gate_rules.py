"""The gate lets through what is known to be as good, and nothing else."""

import json
import math
from types import SimpleNamespace

import pytest

from pllava.params import load_params
from pllava.registry.gate import judge


@pytest.fixture(scope="module")
def params():
    return load_params("recipes/tiny.yaml")


def metrics(average=0.9, tasks=None, **provenance):
    scores = tasks or {"Moving Direction": average, "Moving Count": average}
    return {
        "benchmark": "mvbench",
        "provenance": {"data_sha256": "d" * 64, "template_sha256": "t" * 64, "adapter_sha256": "a" * 64} | provenance,
        "models": {"adapted": {"average": {"value": average}, "tasks": {task: {"value": value} for task, value in scores.items()}}},
    }


def version(number, recorded, adapter="a" * 64):
    tags = {"adapter_sha256": adapter}
    if recorded is not None:
        tags["metrics.mvbench"] = json.dumps(recorded)
    return SimpleNamespace(version=str(number), tags=tags)


CHAMPION = version(1, metrics(0.9))


def test_as_good_within_the_margin_passes(params):
    assert judge(params, version(2, metrics(0.9 - params.gate.margin + 1e-9)), CHAMPION).passed


def test_worse_beyond_the_margin_fails_and_says_by_how_much(params):
    result = judge(params, version(2, metrics(0.9 - params.gate.margin - 1e-3)), CHAMPION)
    assert not result.passed
    assert "average 0.8890, needed" in result.reasons[0]
    assert "| mvbench: average | 90.0 | 88.9 | -1.1 |" in result.table


def test_scores_of_different_judges_are_not_compared(params):
    offline, endpoint = ({"kind": name, "name": f"{name} scorer"} for name in ("offline", "endpoint"))
    result = judge(params, version(2, metrics(0.99, judge=offline)), version(1, metrics(0.9, judge=endpoint)))
    assert not result.passed and "judge differs: offline scorer here, endpoint scorer for the champion" in result.reasons[0]
    assert "| mvbench, scored by the offline scorer: average |" in result.table  # what they are is said wherever they are shown
    assert judge(params, version(2, metrics(0.99, judge=offline)), version(1, metrics(0.9, judge=offline))).passed


def test_first_champion_needs_only_the_floor(params):
    floor = params.model_copy(update={"gate": params.gate.model_copy(update={"min_average": 0.5})})
    assert judge(floor, version(1, metrics(0.5)), None).passed
    assert not judge(floor, version(1, metrics(0.49)), None).passed


def test_the_champion_itself_passes(params):
    result = judge(params, CHAMPION, CHAMPION)
    assert result.passed
    assert "already champion" in result.reasons[0]


@pytest.mark.parametrize(
    ("recorded", "why"),
    [
        (None, "has no recorded metrics"),
        (metrics(math.nan), "average is nan"),
        (metrics(math.inf), "average is inf"),
        (metrics(90.0), "average is 90.0, a number from 0 to 1"),
        (metrics(None), "average is None"),
        (metrics(tasks={"Moving Direction": 0.9, "Moving Count": math.nan}), "Moving Count is nan"),
        (metrics(0.99, tasks={"Moving Direction": 0.99}), "in one of the two only: Moving Count"),
        (metrics(0.99, data_sha256="e" * 64), "data_sha256 differs"),
        (metrics(0.99, template_sha256="e" * 64), "template_sha256 differs"),
        (metrics(0.99, data_sha256=None), "does not record data_sha256"),
        (metrics(0.99, adapter_sha256="b" * 64), "was measured on adapter bbbbbbbbbbbb"),
        ({"models": {}}, "has no tasks"),
    ],
)
def test_what_is_not_known_fails(params, recorded, why):
    result = judge(params, version(2, recorded), CHAMPION)
    assert not result.passed
    assert any(why in reason for reason in result.reasons), result.reasons


def test_a_champion_without_numbers_cannot_be_beaten(params):
    result = judge(params, version(2, metrics(0.99)), version(1, None))
    assert not result.passed
    assert "champion 1 has no recorded metrics" in result.reasons[0]


def test_without_a_benchmark_nothing_is_known(params):
    none = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"benchmarks": {}})})
    assert not judge(none, version(2, metrics(0.99)), CHAMPION).passed
    assert not judge(none, version(1, metrics(0.99)), None).passed
