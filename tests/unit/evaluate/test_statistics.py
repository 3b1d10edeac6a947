"""Accuracies, intervals and paired differences, against values worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pllava.benchmarks.statistics import bootstrap, resampled_accuracy
from pllava.core.errors import PllavaError


def rows(task: str, answers: dict[str, list[int]], media: list[str] | None = None, options: int = 4) -> list[dict]:
    """Rows of one task: `answers` holds 0 or 1 for each question of each model."""
    count = len(next(iter(answers.values())))
    media = media or [f"{task}{index}.mp4" for index in range(count)]
    return [
        {
            "model": model,
            "id": f"{task}/{index}",
            "task": task,
            "media": media[index],
            "candidates": ["x"] * options,
            "correct": bool(values[index]),
        }
        for model, values in answers.items()
        for index in range(count)
    ]


def test_accuracy_and_average_by_hand():
    found = bootstrap(rows("A", {"m": [1, 1, 1, 0]}) + rows("B", {"m": [1, 0]}, options=2), resamples=200, seed=0)
    assert found.task("m", "A").value == 0.75
    assert found.task("m", "B").value == 0.5
    assert found.average("m").value == 0.625  # of tasks, not 4 / 6 of questions
    assert (found.tasks["A"].n, found.tasks["A"].chance, found.tasks["B"].chance) == (4, 0.25, 0.5)


def test_resampling_gives_the_exact_distribution_of_a_small_case():
    """Three videos with 2, 1 and 1 questions: all 27 draws can be listed."""
    correct, asked = np.array([2, 0, 1]), np.array([2, 1, 1])
    exact = [correct[list(draw)].sum() / asked[list(draw)].sum() for draw in product(range(3), repeat=3)]
    table = np.array([[1], [1], [0], [1]], dtype=float)
    sampled = resampled_accuracy(table, ["a", "a", "b", "c"], 200_000, np.random.default_rng(0))[:, 0]
    for value in np.unique(np.round(exact, 9)):
        expected = np.mean(np.isclose(exact, value))
        assert np.isclose(sampled, value).mean() == pytest.approx(expected, abs=0.005)


def test_questions_about_one_video_are_not_independent():
    """Five questions a video, all right or all wrong: the interval is that of 20 draws, not of 100."""
    values = [int(video % 2 == 0) for video in range(20) for _ in range(5)]
    media = [f"v{video}" for video in range(20) for _ in range(5)]
    grouped = bootstrap(rows("A", {"m": values}, media), 2000, 0).task("m", "A")
    alone = bootstrap(rows("A", {"m": values}), 2000, 0).task("m", "A")
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_the_interval_covers_the_truth_about_19_times_in_20():
    rng, hits, trials = np.random.default_rng(1), 0, 200
    for trial in range(trials):
        found = bootstrap(rows("A", {"m": list(rng.binomial(1, 0.7, size=100))}), 200, trial).task("m", "A")
        hits += found.low <= 0.7 <= found.high
    assert 0.90 <= hits / trials <= 0.985


def test_the_interval_narrows_with_the_root_of_the_questions():
    few = bootstrap(rows("A", {"m": [0, 1] * 25}), 4000, 0).task("m", "A")
    many = bootstrap(rows("A", {"m": [0, 1] * 400}), 4000, 0).task("m", "A")
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)
    assert few.high - few.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 50), rel=0.1)  # normal approximation


def test_difference_is_paired():
    """The same 10 of 100 questions changed from wrong to right: a sure gain, although the intervals of the two models overlap."""
    before = [1] * 50 + [0] * 50
    after = [1] * 60 + [0] * 40
    found = bootstrap(rows("A", {"before": before, "after": after}), 2000, 0)
    gain = found.difference("after", "before")
    assert gain.value == pytest.approx(0.1)
    assert gain.low > 0
    assert gain.p is not None
    assert gain.p < 0.01
    assert found.task("before", "A").high > found.task("after", "A").low


def test_equal_models_do_not_differ():
    found = bootstrap(rows("A", {"a": [1, 0, 1, 0], "b": [1, 0, 1, 0]}), 500, 0)
    gain = found.difference("a", "b")
    assert (gain.value, gain.low, gain.high, gain.p) == (0, 0, 0, 1)


def test_p_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(2)
    below = [
        (
            bootstrap(rows("A", {"a": list(rng.binomial(1, 0.5, 100)), "b": list(rng.binomial(1, 0.5, 100))}), 400, trial)
            .difference("a", "b")
            .p
            or 0
        )
        < 0.05
        for trial in range(200)
    ]
    assert np.mean(below) < 0.11


def test_seed_decides_and_other_tasks_do_not_matter():
    a, b = rows("A", {"m": [1, 0, 1, 1, 0]}), rows("B", {"m": [1, 1, 0, 0]})
    assert bootstrap(a, 500, 3).task("m", "A") == bootstrap(a + b, 500, 3).task("m", "A") == bootstrap(b + a, 500, 3).task("m", "A")
    resampled = [bootstrap(a, 500, seed).tasks["A"].resampled for seed in (3, 4)]
    assert not np.array_equal(*resampled)


def test_models_must_have_answered_the_same_questions():
    with pytest.raises(PllavaError, match="A/1 was not answered by all of m, n"):
        bootstrap([*rows("A", {"m": [1, 0]}), *rows("A", {"n": [1]})], 200, 0)


def scored(id_: int, media: str, **scores: float | None) -> dict:
    values = {task: {"value": value} for task, value in scores.items()}
    return {"model": "m", "id": str(id_), "task": "t", "media": media, "candidates": [], "correct": None, "scores": values}


def test_missing_values_are_left_out_of_means_and_draws():
    found = bootstrap([scored(0, "a", x=0.8), scored(1, "b", x=None), scored(2, "c", x=0.8)], 500, 0)
    assert found.task("m", "x").as_dict() == pytest.approx({"value": 0.8, "low": 0.8, "high": 0.8})
    assert (found.tasks["x"].n, found.tasks["x"].scored.tolist()) == (3, [2])


def test_the_two_averages_weigh_tasks_or_questions():
    answers = [scored(n, f"{n}", x=1.0) for n in range(3)] + [scored(3, "3", y=0.0)]
    found = bootstrap(answers, 500, 0)
    assert (found.average("m").value, found.average("m", over="questions").value) == (0.5, 0.75)


def test_scores_of_the_same_answers_draw_the_same_videos():
    """Two dimensions that always agree: their mean is as uncertain as one of them, not less. Most draws miss the small third one."""
    rng = np.random.default_rng(0)
    answers = [scored(n, f"{n}", x=value, y=value) for n, value in enumerate(rng.integers(0, 6, 40) / 5)]
    together, apart = (bootstrap(answers, 4000, 0, share_clips=share).average("m") for share in (True, False))
    one = bootstrap(answers, 4000, 0, share_clips=True).task("m", "x")
    assert (together.low, together.high) == pytest.approx((one.low, one.high))
    assert apart.high - apart.low < 0.85 * (one.high - one.low)
    small = bootstrap([scored(0, "0", x=0.8, z=0.8), *(scored(n, f"{n}", x=0.8) for n in range(1, 9))], 500, 0, share_clips=True)
    assert small.average("m", over="questions").as_dict() == pytest.approx({"value": 0.8, "low": 0.8, "high": 0.8})


def test_large_benchmarks_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch):
    answers = rows("A", {"m": [1, 0, 1, 1, 0, 1]})
    whole = bootstrap(answers, 300, 3).tasks["A"].resampled
    monkeypatch.setattr("pllava.benchmarks.statistics.DRAWS_AT_ONCE", 40)
    assert np.array_equal(bootstrap(answers, 300, 3).tasks["A"].resampled, whole)
