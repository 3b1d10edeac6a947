"""A study file: points are sets of overrides of params.yaml, by dotted key. `read_study("spatial")` reads recipes/studies/spatial.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError

from pllava.core import shipped
from pllava.core.errors import PllavaError
from pllava.core.params import Params, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

STUDIES = Path("recipes/studies")


class Study(Section):
    title: str
    axis: str = Field(description="what the points differ in, as the chart's axis says it")
    shared: dict[str, Any] = Field({}, description="overrides of every point")
    seeds: list[int] = Field(min_length=1, description="seeds of the training; the data are those of params.yaml")
    questions_per_task: int | None = Field(None, ge=1, description="only the first so many of each task; None: all")
    points: dict[str, dict[str, Any]] = Field(min_length=1, description="label -> overrides")


def read_study(name: str) -> tuple[str, Study]:
    """(name, study) of a shipped study or a file. Raises PllavaError with every problem in it."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.locate(STUDIES / f"{name}.yaml")
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted({file.stem for folder in (Path(), shipped.folder()) for file in (folder / STUDIES).glob("*.yaml")}))
        raise PllavaError(f"{path} is not there. Studies: {known}") from None
    except yaml.YAMLError as error:
        raise PllavaError(f"{path} is not valid YAML: {error}") from None
    try:
        return path.stem, Study.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or '(top)'}: {item['msg']}" for item in error.errors()]
        raise PllavaError(f"{path}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


def overridden(params: Params, changes: Mapping[str, Any]) -> Params:
    """Params with values put at dotted keys. Raises PllavaError for a key that is not there or a value that does not fit."""
    values = params.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None  # type: ignore[assignment]
        if not isinstance(place, dict) or last not in place:
            raise PllavaError(f"{key} is no key of params.yaml. Every key is explained in pllava/core/params.py")
        place[last] = value
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise PllavaError(f"{dict(changes)}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None
