"""The gate lets through what is known to be as good, and nothing else."""

import json
import math
from types import SimpleNamespace

import pytest

from pllava.core.params import load_params
from pllava.registry.gate import decide as rules
from pllava.registry.measurements import Measurement


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


def answers(path, right, of=100, model="adapted"):
    """Of `of` questions, each about a clip of its own, these are right."""
    rows = [
        {
            "model": model, "id": str(i), "task": "Moving Count", "media": f"{i}.mp4", "start": None, "end": None, "question": "?",
            "candidates": ["a", "b"], "answer": "(A) a", "prediction": "", "correct": i in right, "error": None,
        }
        for i in range(of)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def same_answers(tmp_path_factory):
    return answers(tmp_path_factory.mktemp("answers") / "results.jsonl", range(90))


@pytest.fixture
def judge(same_answers):
    """The rules; both sides gave the same answers unless a test says otherwise."""

    def decide(params, candidate, champion, results=None):
        def look(of, benchmark, like):
            recorded = json.loads(of.tags.get("metrics.mvbench", "{}"))
            return Measurement(recorded, (results or {}).get(int(of.version), same_answers))

        return rules(params, candidate, champion, look)

    return decide


CHAMPION = version(1, metrics(0.9))


def test_worse_in_the_paired_test_fails_also_within_the_margin(params, judge, tmp_path):
    wide = params.model_copy(update={"gate": params.gate.model_copy(update={"margin": 0.5})})
    results = {1: answers(tmp_path / "1", range(90)), 2: answers(tmp_path / "2", range(70))}
    result = judge(wide, version(2, metrics(0.7)), CHAMPION, results)
    assert not result.passed
    assert "worse than the champion in the paired test, -20.0" in result.reasons[0]
    off = wide.model_copy(update={"gate": wide.gate.model_copy(update={"significance": 0})})
    assert judge(off, version(2, metrics(0.7)), CHAMPION, results).passed
    few = {1: answers(tmp_path / "3", range(90)), 2: answers(tmp_path / "4", [*range(1, 90)])}
    result = judge(wide, version(2, metrics(0.89)), CHAMPION, few)
    assert result.passed
    assert "not worse in the paired test over 100 scores, -1.0" in result.reasons[1]
    assert result.differences["mvbench"].startswith("-1.0 (")


def test_without_the_answers_of_both_nothing_is_paired_and_nothing_passes(params, judge, tmp_path):
    result = judge(params, version(2, metrics(0.99)), CHAMPION, {1: None})
    assert not result.passed
    assert "pllava evaluate --model models:/pllava/1" in result.reasons[0]
    other = answers(tmp_path / "other", range(90), of=99)
    result = judge(params, version(2, metrics(0.99)), CHAMPION, {2: other})
    assert not result.passed
    assert "1 questions are in one of" in result.reasons[0]


def test_too_many_missing_judgements_fail(params, judge):
    recorded = metrics(0.95)
    recorded["models"]["adapted"]["tasks"]["Moving Count"] |= {"n": 100, "missing": 3}
    result = judge(params, version(2, recorded), CHAMPION)
    assert not result.passed
    assert "3 of 100 judgements are missing, judge.max_missing allows 2.0%" in result.reasons[0]
    recorded["models"]["adapted"]["tasks"]["Moving Count"]["missing"] = 2
    assert judge(params, version(2, recorded), CHAMPION).passed


def test_as_good_within_the_margin_passes(params, judge):
    assert judge(params, version(2, metrics(0.9 - params.gate.margin + 1e-9)), CHAMPION).passed


def test_worse_beyond_the_margin_fails_and_says_by_how_much(params, judge):
    result = judge(params, version(2, metrics(0.9 - params.gate.margin - 1e-3)), CHAMPION)
    assert not result.passed
    assert "average 0.8890, needed" in result.reasons[0]
    assert "| mvbench: average | 90.0 | 88.9 | -1.1 |" in result.table


def test_scores_of_different_judges_are_not_compared(params, judge):
    offline, endpoint = ({"kind": name, "name": f"{name} scorer"} for name in ("offline", "endpoint"))
    result = judge(params, version(2, metrics(0.99, judge=offline)), version(1, metrics(0.9, judge=endpoint)))
    assert not result.passed
    assert "judge differs: offline scorer here, endpoint scorer for the champion" in result.reasons[0]
    assert "| mvbench, scored by the offline scorer: average |" in result.table  # what they are is said wherever they are shown
    assert judge(params, version(2, metrics(0.99, judge=offline)), version(1, metrics(0.9, judge=offline))).passed


def test_first_champion_needs_only_the_floor(params, judge):
    floor = params.model_copy(update={"gate": params.gate.model_copy(update={"min_average": 0.5})})
    assert judge(floor, version(1, metrics(0.5)), None).passed
    assert not judge(floor, version(1, metrics(0.49)), None).passed


@pytest.fixture
def against_base(params, judge, tmp_path):
    """The gate's result for a version with `right` of 100 answers right, and its base with `base`; two candidates a question."""

    def decide(right, base, champion=None, **gate):
        changed = params.model_copy(update={"gate": params.gate.model_copy(update=gate)})
        file = answers(tmp_path / "adapted", range(right))
        file.write_text(file.read_text() + answers(tmp_path / "base", range(base), model="base").read_text())
        return judge(changed, version(2, metrics(0.9)), champion, {1: file, 2: file})

    return decide


@pytest.mark.parametrize("champion", [None, CHAMPION], ids=["first champion", "next champion"])
@pytest.mark.parametrize(
    ("right", "base", "why"),
    [
        (45, 10, "mvbench: worse than a blind guess: 45.0 % against 50.0 %, -5.0 ("),
        (70, 90, "mvbench: worse than its base, untrained: 70.0 % against 90.0 %, -20.0 ("),
    ],
    ids=["blind guess", "base"],
)
def test_worse_than_a_blind_guess_or_the_base_fails(against_base, right, base, why, champion):
    result = against_base(right, base, champion)
    assert not result.passed
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith(why)


@pytest.mark.parametrize(("right", "base"), [(70, 70), (90, 50), (50, 50)])
def test_as_good_as_a_blind_guess_and_the_base_passes(against_base, right, base):
    assert against_base(right, base).passed


def test_a_little_worse_than_the_base_passes_within_the_margin(against_base):
    assert against_base(70, 71).passed


def test_a_little_worse_than_a_blind_guess_fails_whatever_the_margin(against_base):
    assert not against_base(49, 10, margin=0.5).passed


def test_worse_than_the_base_in_the_paired_test_fails_also_within_the_margin(against_base):
    result = against_base(70, 90, margin=0.5)
    assert not result.passed
    assert "worse than its base, untrained" in result.reasons[0]


@pytest.mark.parametrize(("base", "passed"), [(0.9, True), (0.91, False)])
def test_a_base_whose_answers_are_not_kept_is_compared_by_its_average(params, judge, base, passed):
    recorded = metrics(0.9)
    recorded["models"]["base"] = {"average": {"value": base}, "tasks": {}}
    result = judge(params, version(2, recorded), None)
    assert result.passed == passed
    assert passed or "not paired, the base's answers are not kept" in result.reasons[0]


@pytest.mark.parametrize("champion", [None, CHAMPION], ids=["first champion", "next champion"])
def test_a_version_that_was_rolled_back_fails(params, judge, champion):
    rolled_back = version(2, metrics(0.99))
    rolled_back.tags["rolled_back_at"] = "2026-01-02T03:04:05+00:00"
    result = judge(params, rolled_back, champion)
    assert not result.passed
    assert "version 2 was rolled back at 2026-01-02T03:04:05+00:00" in result.reasons[0]


def test_a_version_that_does_not_say_which_adapter_it_is_fails(params, judge):
    result = judge(params, version(2, metrics(0.99), adapter=""), CHAMPION)
    assert not result.passed
    assert "version 2 was measured on adapter aaaaaaaaaaaa, but is nothing" in result.reasons[0]


def test_a_first_champion_without_its_answers_fails(params, judge):
    result = judge(params, version(1, metrics(0.9)), None, {1: None})
    assert not result.passed
    assert "its answers are not kept" in result.reasons[0]


def test_the_champion_itself_passes(params, judge):
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
        (metrics(0.99, limit=10), "limit differs: 10 here, None for the champion"),
        (metrics(0.99, adapter_sha256="b" * 64), "was measured on adapter bbbbbbbbbbbb"),
        ({"models": {}}, "has no tasks"),
    ],
)
def test_what_is_not_known_fails(params, judge, recorded, why):
    result = judge(params, version(2, recorded), CHAMPION)
    assert not result.passed
    assert any(why in reason for reason in result.reasons), result.reasons


def test_a_champion_without_numbers_cannot_be_beaten(params, judge):
    result = judge(params, version(2, metrics(0.99)), version(1, None))
    assert not result.passed
    assert "champion 1 has no recorded metrics" in result.reasons[0]


def test_without_a_benchmark_nothing_is_known(params, judge):
    none = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"benchmarks": {}})})
    assert not judge(none, version(2, metrics(0.99)), CHAMPION).passed
    assert not judge(none, version(1, metrics(0.99)), None).passed


def test_exactly_the_margin_below_is_within_it(params, judge):
    """0.07 - 0.01 is more than 0.06 to a computer."""
    for average, champion in ((0.06, 0.07), (0.96, 0.97), (0.019, 0.029)):
        assert judge(params, version(2, metrics(average)), version(1, metrics(champion))).passed
