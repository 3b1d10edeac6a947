"""Accuracy with 95 % bootstrap intervals: `bootstrap(rows, resamples=2000, seed=0).average("adapted")`.

Videos are resampled, not questions: questions about one clip are answered from the same pixels and are not independent draws.
All models of a run share the resamples, so a difference between two models is a paired bootstrap (Efron & Tibshirani 1993, chapter 16).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pllava.errors import PllavaError

CONFIDENCE = 0.95


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
    """One task: observed accuracy and resampled accuracies of each model (columns in the order of `Bootstrap.models`)."""

    observed: np.ndarray  # [M]
    resampled: np.ndarray  # [R, M]
    n: int
    chance: float


@dataclass(frozen=True)
class Bootstrap:
    models: tuple[str, ...]
    tasks: dict[str, TaskBootstrap]

    def task(self, model: str, task: str) -> Interval:
        column, entry = self.models.index(model), self.tasks[task]
        return interval(float(entry.observed[column]), entry.resampled[:, column])

    def average(self, model: str, tasks: Sequence[str] | None = None) -> Interval:
        """Mean of the tasks' accuracies (each task weighs the same, as in MVBench's tables), resampled within each task."""
        observed, resampled = self._mean(tasks)
        column = self.models.index(model)
        return interval(float(observed[column]), resampled[:, column])

    def difference(self, model: str, other: str, tasks: Sequence[str] | None = None) -> Interval:
        """Average of `model` minus average of `other` over the same resampled videos, with a two-sided p-value."""
        observed, resampled = self._mean(tasks)
        a, b = self.models.index(model), self.models.index(other)
        differences = resampled[:, a] - resampled[:, b]
        found = interval(float(observed[a] - observed[b]), differences)
        # +1: a p-value of exactly 0 would claim more than R resamples can show. 1e-12: sums of equal shares differ in the last bit
        tail = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum()) + 1
        return Interval(found.value, found.low, found.high, p=min(1.0, 2 * float(tail) / (len(differences) + 1)))

    def _mean(self, tasks: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self.tasks[name] for name in (self.tasks if tasks is None else tasks)]
        if not chosen:
            raise PllavaError("No task to average over. Choose at least one task of the benchmark")
        return np.mean([t.observed for t in chosen], axis=0), np.mean([t.resampled for t in chosen], axis=0)


def bootstrap(rows: Iterable[dict], resamples: int, seed: int) -> Bootstrap:
    """Resample the answers of a run. A row holds `model, id, task, media, correct, candidates` (`results.jsonl`).

    A task's draws depend on the seed and the task's name only: another task added or removed changes nothing.
    Raises PllavaError if the models did not answer the same questions, since then nothing can be paired.
    """
    rows = list(rows)
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    table: dict[str, dict[str, dict[str, dict]]] = {}  # task -> id -> model -> row
    for row in rows:
        table.setdefault(row["task"], {}).setdefault(row["id"], {})[row["model"]] = row
    tasks = {}
    for task, questions in table.items():
        unpaired = [id_ for id_, answers in questions.items() if len(answers) != len(models)]
        if unpaired:
            raise PllavaError(
                f"{task}: {unpaired[0]} was not answered by all of {', '.join(models)}. Evaluate again: pllava evaluate mvbench"
            )
        correct = np.array([[answers[model]["correct"] for model in models] for answers in questions.values()], dtype=float)
        first = [next(iter(answers.values())) for answers in questions.values()]
        rng = np.random.default_rng([seed, zlib.crc32(task.encode())])
        tasks[task] = TaskBootstrap(
            observed=correct.mean(axis=0),
            resampled=resampled_accuracy(correct, [row["media"] for row in first], resamples, rng),
            n=len(questions),
            chance=float(np.mean([1 / len(row["candidates"]) for row in first])),
        )
    return Bootstrap(models, tasks)


def resampled_accuracy(correct: np.ndarray, media: Sequence[str], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Accuracies [R, M] over videos drawn with replacement. `correct` [Q, M] holds 0 or 1; `media` names the video of each question."""
    _, video = np.unique(np.asarray(media), return_inverse=True)
    count = int(video.max()) + 1
    right = np.zeros((count, correct.shape[1]))
    np.add.at(right, video, correct)
    asked = np.bincount(video, minlength=count)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)  # [R, videos]: how often each video is drawn
    return (draws @ right) / (draws @ asked)[:, None]


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Percentile interval of resampled values [R] around the observed one."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
