"""Accuracy with 95 % bootstrap intervals: `bootstrap(rows, resamples=2000, seed=0).average("adapted")`.

Videos are resampled, not questions: questions about one clip are answered from the same pixels and are not independent draws.
All models of a run share the resamples, so a difference between two models is a paired bootstrap (Efron & Tibshirani 1993, chapter 16).
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
DRAWS_AT_ONCE = 500_000  # counts in memory while resampling, 4 MB

Over = Literal["tasks", "questions"]


@dataclass(frozen=True)
class Interval:
    """A value and its percentile interval. `p` is the two-sided bootstrap p-value of "the value is 0", for differences only."""

    value: float
    low: float
    high: float
    p: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class TaskBootstrap:
    """One task: observed and resampled means of each model (columns in the order of `Bootstrap.models`); NaN where nothing is scored."""

    observed: np.ndarray  # [M]
    resampled: np.ndarray  # [R, M]
    n: int  # questions
    scored: np.ndarray  # [M]: questions whose judgement is not missing
    chance: float


@dataclass(frozen=True)
class Bootstrap:
    models: tuple[str, ...]
    tasks: dict[str, TaskBootstrap]

    def task(self, model: str, task: str) -> Interval:
        column, entry = self.models.index(model), self.tasks[task]
        return interval(float(entry.observed[column]), entry.resampled[:, column])

    def average(self, model: str, tasks: Sequence[str] | None = None, over: Over = "tasks") -> Interval:
        """Mean of the tasks' means: each task weighs the same ("tasks", as in MVBench's tables) or as many as its scored questions
        ("questions", as in the published scripts and the paper's VCG average). Resampled with the tasks.
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
        found = interval(float(observed[a] - observed[b]), differences)
        # +1: a p-value of exactly 0 would claim more than R resamples can show. 1e-12: sums of equal shares differ in the last bit
        tail = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum()) + 1
        return Interval(found.value, found.low, found.high, p=min(1.0, 2 * float(tail) / (len(differences) + 1)))

    def _mean(self, tasks: Sequence[str] | None, over: Over) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self.tasks[name] for name in (self.tasks if tasks is None else tasks)]
        if not chosen:
            raise PllavaError("No task to average over. Choose at least one task of the benchmark")
        # [tasks, M]; a draw may hold no scored question of a small task (NaN): the other tasks are its mean
        weights = np.array([t.scored if over == "questions" else np.ones(len(t.scored)) for t in chosen], dtype=float)
        return (
            _weighted(np.array([t.observed for t in chosen]), weights),
            _weighted(np.array([t.resampled for t in chosen]), weights[:, None, :]),
        )


def _weighted(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the first axis, of what is not NaN."""
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(means) * weights).sum(axis=0) / (~np.isnan(means) * weights).sum(axis=0)


def bootstrap(rows: Iterable[Mapping[str, Any]], resamples: int, seed: int, share_clips: bool = False) -> Bootstrap:
    """Resample the scored answers of a run. A row of `results.jsonl` holds `model, id, task, media, correct, candidates`, maybe `scores`.

    A task's draws depend on the seed and the task's name only: another task added or removed changes nothing. With `share_clips` all
    tasks draw the same videos, because they score the same answers (the dimensions of VCGBench).
    Raises PllavaError if the models did not answer the same questions, since then nothing can be paired.
    """
    models: dict[str, None] = {}  # in the order they come
    media: set[str] = set()
    table: dict[str, _Questions] = {}
    for row in rows:  # what is kept of a row is a few numbers
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
    """The scored questions of one task, in the order they come."""

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
        """[questions, models]. Raises PllavaError when a model has not answered one."""
        found = np.full((len(self.media), len(models)), self.NOT_ANSWERED)
        for place, model in enumerate(models):
            column = self._values.get(model, array("d"))
            found[: len(column), place] = column
        for index in np.flatnonzero(np.isinf(found).any(axis=1)):
            id_ = next(id_ for id_, place in self._index.items() if place == index)
            raise PllavaError(f"{task}: {id_} was not answered by all of {', '.join(models)}. Evaluate again: pllava evaluate")
        return found


def resampled_accuracy(
    correct: np.ndarray, media: Sequence[str], resamples: int, rng: np.random.Generator, clips: Sequence[str] | None = None
) -> np.ndarray:
    """Means [R, M] over videos drawn with replacement. `correct` [Q, M] holds values in 0..1, NaN where one is missing; `media` names the
    video of each question; the videos drawn are those, or `clips`. NaN where a draw holds no scored question.
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
        for first in range(0, resamples, step):  # the same stream of draws in any number of steps
            draws = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - first))  # [r, videos]
            drawn[first : first + step] = (draws @ total) / (draws @ scored)
    return drawn


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Percentile interval of resampled values [R] around the observed one."""
    if np.isnan(resampled).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
