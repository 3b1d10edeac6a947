"""From answers to scored rows: `score_rows(rows, benchmark, judge)`. No model is needed, so it can be repeated with another judge.

A row gets `correct` and, on a judged benchmark, `scores`: {task: {value, correct, score | f1, missing, suspicious}}.
A clip that can't be read is wrong and 0; a judgement that failed is missing, in no average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pllava.errors import PllavaError
from pllava.evaluate.benchmark import Benchmark, Score
from pllava.evaluate.judge import Judge


def score_rows(rows: Sequence[dict[str, Any]], benchmark: Benchmark, judge: Judge, max_missing: float = 0.0) -> list[dict[str, Any]]:
    """The same rows in the same order, scored. Raises PllavaError when more than `max_missing` of the judgements failed."""
    pool = ThreadPoolExecutor(judge.concurrency if benchmark.judged else 1)
    try:
        scores = list(pool.map(lambda row: _scores(row, benchmark, judge), rows))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nothing more is asked
    judged = [score for found in scores for score in found.values()]
    missing = [score.missing for score in judged if score.value is None]
    if len(missing) > max_missing * len(judged):
        raise PllavaError(
            f"{len(missing)} of {len(judged)} judgements failed, judge.max_missing allows {max_missing:.1%}. The first: {missing[0]}. "
            "Answers and replies are kept; when the judge is well, run the same command again"
        )
    return [_scored(row, found, benchmark.judged) for row, found in zip(rows, scores, strict=True)]


def values(row: Mapping[str, Any]) -> dict[str, float | None]:
    """{task: value in 0..1, or None where a judgement is missing} of a scored row."""
    if "scores" in row:
        return {task: score["value"] for task, score in row["scores"].items()}
    return {row["task"]: None if row["correct"] is None else float(row["correct"])}


def _scores(row: Mapping[str, Any], benchmark: Benchmark, judge: Judge) -> dict[str, Score]:
    if row["error"] is not None:
        nothing = judge.nothing() if benchmark.judged else Score(0.0, correct=False)
        return dict.fromkeys(benchmark.tasks(row), nothing)
    return benchmark.score(row, judge) if benchmark.tasks(row) else {}


def _scored(row: dict[str, Any], scores: Mapping[str, Score], judged: bool) -> dict[str, Any]:
    """`correct` of a row: right on all its tasks; None when one is missing or there is none."""
    verdicts = [score.correct for score in scores.values()]
    scored = row | {"correct": None if not verdicts or None in verdicts else all(verdicts)}
    return scored | {"scores": {task: score.as_dict() for task, score in scores.items()}} if judged else scored
