"""Accuracy with 95 % bootstrap intervals: `bootstrap(rows, resamples=2000, seed=0).average("adapted")`.

The bootstrap resamples videos, not questions, because questions about one clip are not independent: they share its pixels.
All models of a run share the resamples, so the difference between two models is a paired bootstrap (Efron & Tibshirani 1993, chapter 16).
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pllava.benchmarks.scoring import values
from pllava.core.errors import PllavaError

CONFIDENCE = 0.95
DRAWS_AT_ONCE = 500_000  # counts in memory at a time while resampling: 4 MB

Over = Literal["tasks", "questions"]


@dataclass(frozen=True)
class Interval:
    """A value and its percentile interval. `p`, for differences only: the two-sided bootstrap p-value of "the value is 0"."""

    value: float
    low: float
    high: float
    p: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class TaskBootstrap:
    """Observed and resampled means of one task. Columns are models, in the order of `Bootstrap.models`. NaN if no question is scored."""

    observed: np.ndarray  # [M]
    resampled: np.ndarray  # [R, M]
    n: int  # questions
    scored: np.ndarray  # [M]: questions with a judgement
    chance: float


@dataclass(frozen=True)
class Bootstrap:
    models: tuple[str, ...]
    tasks: dict[str, TaskBootstrap]

    def task(self, model: str, task: str) -> Interval:
        """Mean of `model` on one task, with its interval."""
        column, entry = self.models.index(model), self.tasks[task]
        return interval(float(entry.observed[column]), entry.resampled[:, column])

    def average(self, model: str, tasks: Sequence[str] | None = None, over: Over = "tasks") -> Interval:
        """Weighted mean of the tasks' means, with its interval from the tasks' resamples. `tasks`: None for all.

        over="tasks": each task weighs the same, as in MVBench's tables. over="questions": a task weighs as much as it has scored
        questions, as in the published scripts and the paper's VCG average.
        """
        column = self.models.index(model)
        observed, resampled = self._mean(tasks, over)
        return interval(float(observed[column]), resampled[:, column])

    def difference(self, model: str, other: str, tasks: Sequence[str] | None = None, over: Over = "tasks") -> Interval:
        """Average of `model` minus average of `other` over the same resampled videos, with a two-sided p-value."""
        observed, resampled = self._mean(tasks, over)
        a, b = self.models.index(model), self.models.index(other)
        differences = resampled[:, a] - resampled[:, b]
        differences = differences[~np.isnan(differences)]
        observed_interval = interval(float(observed[a] - observed[b]), differences)
        # +1: R resamples can't show a p-value of exactly 0. 1e-12: equal means can differ in the last bit
        tail = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum()) + 1
        return Interval(
            observed_interval.value, observed_interval.low, observed_interval.high, p=min(1.0, 2 * float(tail) / (len(differences) + 1))
        )

    def _mean(self, tasks: Sequence[str] | None, over: Over) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self.tasks[name] for name in (self.tasks if tasks is None else tasks)]
        if not chosen:
            raise PllavaError("No task to average over. Choose at least one task of the benchmark")
        # [tasks, M]. A resample may have no scored question of a small task (NaN): its average is then over the other tasks
        weights = np.array([t.scored if over == "questions" else np.ones(len(t.scored)) for t in chosen], dtype=float)
        return (
            _weighted(np.array([t.observed for t in chosen]), weights),
            _weighted(np.array([t.resampled for t in chosen]), weights[:, None, :]),
        )


def _weighted(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the first axis, without NaNs."""
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(means) * weights).sum(axis=0) / (~np.isnan(means) * weights).sum(axis=0)


def bootstrap(rows: Iterable[Mapping[str, Any]], resamples: int, seed: int, share_clips: bool = False) -> Bootstrap:
    """Resample the scored answers of a run.

    rows: of `results.jsonl`, with `model, id, task, media, correct, candidates` and, if judged, `scores`.

    The resamples of a task depend on the seed and the task's name only, so other tasks have no influence. With `share_clips` all tasks
    resample the same videos, because they score the same answers (the dimensions of VCGBench).
    Raises PllavaError if the models did not answer the same questions, because a paired bootstrap needs pairs.
    """
    models: dict[str, None] = {}  # in the order of the rows
    media: set[str] = set()
    table: dict[str, _Questions] = {}
    for row in rows:  # only a few numbers of each row stay in memory
        models.setdefault(row["model"])
        if share_clips:
            media.add(row["media"])
        for task, value in values(row).items():
            table.setdefault(task, _Questions()).add(row, value)
    clips = sorted(media) if share_clips else None
    tasks = {}
    for task, questions in table.items():
        scores = questions.scores(task, tuple(models))
        rng = np.random.default_rng([seed, zlib.crc32(b"" if share_clips else task.encode())])
        scored = (~np.isnan(scores)).sum(axis=0)
        with np.errstate(invalid="ignore"):
            observed = np.nansum(scores, axis=0) / scored
        tasks[task] = TaskBootstrap(
            observed=observed,
            resampled=resampled_accuracy(scores, questions.media, resamples, rng, clips),
            n=len(scores),
            scored=scored,
            chance=float(np.mean(questions.chance)),
        )
    return Bootstrap(tuple(models), tasks)


class _Questions:
    """The values of all models on the questions of one task, in the order of the rows."""

    NOT_ANSWERED = float("inf")

    def __init__(self) -> None:
        self.media: list[str] = []
        self.chance = array("d")
        self._index: dict[str, int] = {}
        self._values: dict[str, array] = {}  # model -> value of each question, NaN where a judgement is missing

    def add(self, row: Mapping[str, Any], value: float | None) -> None:
        index = self._index.setdefault(row["id"], len(self._index))
        if index == len(self.media):
            self.media.append(sys.intern(row["media"]))
            self.chance.append(1 / len(row["candidates"]) if row["candidates"] else 0.0)
        column = self._values.setdefault(row["model"], array("d"))
        column.extend([self.NOT_ANSWERED] * (index + 1 - len(column)))
        column[index] = np.nan if value is None else value

    def scores(self, task: str, models: Sequence[str]) -> np.ndarray:
        """Values [questions, models]. Raises PllavaError if a model has not answered a question."""
        scores = np.full((len(self.media), len(models)), self.NOT_ANSWERED)
        for position, model in enumerate(models):
            column = self._values.get(model, array("d"))
            scores[: len(column), position] = column
        for index in np.flatnonzero(np.isinf(scores).any(axis=1)):
            id_ = next(id_ for id_, position in self._index.items() if position == index)
            raise PllavaError(f"{task}: {id_} was not answered by all of {', '.join(models)}. Evaluate again: pllava evaluate")
        return scores


def resampled_accuracy(
    correct: np.ndarray, media: Sequence[str], resamples: int, rng: np.random.Generator, clips: Sequence[str] | None = None
) -> np.ndarray:
    """Means [R, M] over videos drawn with replacement; NaN if a resample has no scored question.

    correct [Q, M]: values in 0..1, NaN if missing. media: the video of each question. clips: the sorted videos to draw from; default: those
    in `media`.
    """
    names, video = np.unique(np.asarray(media), return_inverse=True)
    if clips is not None:
        names, video = np.asarray(clips), np.searchsorted(np.asarray(clips), np.asarray(media))
    count = len(names)
    total, scored = np.zeros((count, correct.shape[1])), np.zeros((count, correct.shape[1]))
    np.add.at(total, video, np.nan_to_num(correct))
    np.add.at(scored, video, ~np.isnan(correct))
    drawn = np.empty((resamples, correct.shape[1]))
    step = max(1, DRAWS_AT_ONCE // count)
    with np.errstate(invalid="ignore"):
        for first in range(0, resamples, step):  # the number of steps does not change the draws
            draws = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - first))  # [r, videos]
            drawn[first : first + step] = (draws @ total) / (draws @ scored)
    return drawn


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Percentile interval of resampled values [R] around the observed one."""
    if np.isnan(resampled).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
