"""The points of a sweep: every combination of the grid's settings, and listed ones. All points are checked before the first one runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_of
from pllava.core.overrides import applied, nested
from pllava.core.params import Params
from pllava.core.validation import problems

Positive = Annotated[int, Field(ge=1)]


class Grid(BaseModel):
    """Every combination is a point. What is left empty stays as in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pooling_shape: list[tuple[Positive, Positive, Positive]] = Field([], description="(T, H, W) of the visual tokens")
    num_frames: list[Annotated[int, Field(ge=1, le=512)]] = Field([], description="frames sampled from a clip")
    lora_rank: list[Annotated[int, Field(ge=1, le=4096)]] = Field([], description="LoRA rank")
    learning_rate: list[Annotated[float, Field(gt=0, le=1)]] = Field([], description="peak of the cosine")
    other: dict[str, list[Any]] = Field({}, description='any key of params.yaml: {"train.steps": [100, 200]}')

    def axes(self) -> dict[str, list[Any]]:
        """{dotted key of params.yaml: values}. Raises PllavaError for a key that `other` repeats."""
        named: dict[str, list[Any]] = {
            "model.pooling_shape": [list(shape) for shape in self.pooling_shape],
            "model.num_frames": self.num_frames,
            "train.lora.r": self.lora_rank,
            "train.learning_rate": self.learning_rate,
        }
        if twice := sorted(key for key in self.other if named.get(key)):
            raise PllavaError(f"{', '.join(twice)}: given twice, by name and under other")
        return {key: values for key, values in (named | self.other).items() if values}


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    key: a hash of the whole params. settings: {dotted key: value} of the keys that differ within the sweep, for display. changes: all
    overrides, nested as in params.yaml.
    """

    key: str
    settings: dict[str, Any]
    changes: dict[str, Any]

    @property
    def title(self) -> str:
        return ", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in self.settings.items()) or "params.yaml as it stands"


def points(base: Params, grid: Grid, listed: Iterable[dict[str, Any]] = ()) -> list[Point]:
    """The points of the grid and of the list ({dotted key: value} each), without repeats; params.yaml itself when both are empty.

    Raises PllavaError that lists every point with invalid settings.
    """
    axes, listed = grid.axes(), list(listed)
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes or not listed else []
    by_key: dict[str, Point] = {}
    errors: list[str] = []
    for settings in [*combinations, *listed]:
        changes = nested(settings)
        try:
            params = applied(base, settings)
        except ValidationError as error:
            errors += [f"{settings}: {problem}" for problem in problems(error, Params)]
            continue
        key = sha256_of(params.model_dump(mode="json"))[:12]
        by_key.setdefault(key, Point(key, settings, changes))
    if errors:
        raise PllavaError("these points are no valid settings:\n" + "\n".join(f"  {line}" for line in errors))
    named = {name for point in by_key.values() for name in point.settings}
    same = {name for name in named if len({json.dumps(point.settings.get(name), default=str) for point in by_key.values()}) == 1}
    if len(by_key) == 1:
        same = set()
    return [replace(p, settings={name: value for name, value in p.settings.items() if name not in same}) for p in by_key.values()]
