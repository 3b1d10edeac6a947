"""`score_rows(rows, benchmark, judge)` scores answers. It needs no model, so it can be repeated with another judge.

A scored row has `correct` and, on a judged benchmark, `scores`: {task: {value, correct, score | f1, missing, suspicious}}.
The answer about an unreadable clip is wrong and scores 0. A failed judgement is missing: no average includes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from pllava.benchmarks.benchmark import Benchmark, Score
from pllava.benchmarks.judge import Judge
from pllava.core.errors import PllavaError

QUEUE = 64  # rows in memory for each concurrent request
GIVE_UP_AFTER = 64  # failed judgements without a successful one: then the judge is not asked for the other rows


def score_rows(rows: Iterable[dict[str, Any]], benchmark: Benchmark, judge: Judge, max_missing: float = 0.0) -> Iterator[dict[str, Any]]:
    """Yield the rows in their order, scored. Only a few hundred rows are in memory at a time.

    max_missing: share of judgements that may fail. Raises PllavaError at the end if more failed, or early after GIVE_UP_AFTER failures
    without a success. The caller must then discard the rows it got.
    """
    if not benchmark.judged:  # no judgement can fail
        for row in rows:
            yield _with_scores(row, _scores(row, benchmark, judge), judged=False)
        return
    total, missing, first, any_verdict, gave_up = 0, 0, None, False, False
    for row, scores in _judge(rows, benchmark, judge):
        reasons = [score.missing for score in scores.values() if score.value is None]
        total, missing, first = total + len(scores), missing + len(reasons), first or next(iter(reasons), None)
        any_verdict = any_verdict or (row["error"] is None and len(reasons) < len(scores))
        gave_up = not any_verdict and missing >= GIVE_UP_AFTER and max_missing < 1
        if gave_up:
            break
        yield _with_scores(row, scores, judged=True)
    if missing > max_missing * total:
        rest = "; the rest was not asked" if gave_up else ""
        raise PllavaError(
            f"{missing} of {total} judgements failed{rest}, judge.max_missing allows {max_missing:.1%}. The first: {first}. "
            "Answers and replies are kept; when the judge is well, run the same command again"
        )


def _judge(rows: Iterable[dict[str, Any]], benchmark: Benchmark, judge: Judge) -> Iterator[tuple[dict[str, Any], dict[str, Score]]]:
    """Yield (row, {task: score}) in order. Scores as many rows at once as the judge allows, from a queue of a few hundred."""
    pool = ThreadPoolExecutor(judge.concurrency)
    remaining = iter(rows)
    try:
        while queue := list(islice(remaining, QUEUE * judge.concurrency)):
            yield from zip(queue, pool.map(lambda row: _scores(row, benchmark, judge), queue), strict=True)
    except BaseException:
        judge.stop()  # after an error: send no further request, and end waits for a new try
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def values(row: Mapping[str, Any]) -> dict[str, float | None]:
    """{task: value} of a scored row. A value is 0..1, or None if the judgement is missing."""
    if "scores" in row:
        return {task: score["value"] for task, score in row["scores"].items()}
    return {row["task"]: None if row["correct"] is None else float(row["correct"])}


def _scores(row: Mapping[str, Any], benchmark: Benchmark, judge: Judge) -> dict[str, Score]:
    if row["error"] is not None:
        nothing = judge.nothing() if benchmark.judged else Score(0.0, correct=False)
        return dict.fromkeys(benchmark.tasks(row), nothing)
    return benchmark.score(row, judge) if benchmark.tasks(row) else {}


def _with_scores(row: dict[str, Any], scores: Mapping[str, Score], judged: bool) -> dict[str, Any]:
    """Add `correct` and, if judged, `scores` to the row, and return it.

    `correct`: whether the answer is right on all its tasks; None if it has no tasks or a judgement is missing.
    """
    verdicts = [score.correct for score in scores.values()]
    row["correct"] = None if not verdicts or None in verdicts else all(verdicts)
    if judged:
        row["scores"] = {task: score.as_dict() for task, score in scores.items()}
    return row
