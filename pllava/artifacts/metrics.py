"""The scores of an evaluation, `metrics/<benchmark>.json`: `read_metrics("metrics/mvbench.json")["models"]["adapted"]["average"]`.

Git and DVC track the file, so equal runs must give equal bytes: it holds no time, no commit and no path of a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # pydantic wants these below Python 3.12
)

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json

METRICS = Path("metrics")  # <benchmark>.json
VERSION = 1  # of the schema


@with_config(extra="allow")
class Interval(TypedDict):
    """A mean in 0..1 with its 95 % bootstrap interval over videos; None where no question has a reference answer."""

    value: float | None
    low: float | None
    high: float | None
    score: NotRequired[float]  # mean of a judge's 0 to 5


@with_config(extra="allow")
class TaskMetrics(Interval):
    """The scores of one model on one task."""

    n: int  # questions
    chance: NotRequired[float]  # accuracy of a blind guess; 0 for open questions
    missing: NotRequired[int]  # judgements that failed
    f1: NotRequired[float]
    accuracy: NotRequired[float]  # share of right answers


@with_config(extra="allow")
class ModelMetrics(TypedDict):
    """The scores of one model."""

    average: Interval  # over tasks or over questions, as `provenance.average_over` says
    average_over_tasks: NotRequired[Interval]
    average_over_questions: NotRequired[Interval]
    tasks: dict[str, TaskMetrics]


@with_config(extra="allow")
class Metrics(TypedDict):
    """The content of a metrics file."""

    benchmark: str  # its name in params.yaml
    provenance: dict[str, Any]  # everything the numbers depend on; docs/evaluation.md explains every key
    models: dict[str, ModelMetrics]  # base, single_frame, adapted


_SCHEMA: TypeAdapter[Metrics] = TypeAdapter(Metrics)


def read_metrics(path: str | Path) -> Metrics:
    """The content of a metrics file. Raises PllavaError for other content, FileNotFoundError where there is no file."""
    try:
        return _SCHEMA.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PllavaError(f"{path} holds no metrics: {key}: {first['msg'].lower()}. Evaluate again: pllava evaluate") from None


def score_text(score: Mapping[str, Any] | None) -> str:
    """{"value": 0.9, "low": 0.86, "high": 0.94} -> "90.0 (86-94)", in percent; "-" where nothing is scored."""
    if not score or not isinstance(score.get("value"), int | float):
        return "-"
    interval = f" ({100 * score['low']:.0f}-{100 * score['high']:.0f})" if "low" in score and "high" in score else ""
    return f"{100 * score['value']:.1f}{interval}"


def write_metrics(path: str | Path, metrics: Metrics | dict[str, Any]) -> None:
    """Write a metrics file atomically, with sorted keys."""
    write_json(path, metrics)
