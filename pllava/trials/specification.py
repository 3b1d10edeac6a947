"""The schema of a study file. `read_study("spatial")` reads recipes/studies/spatial.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from pllava.core import shipped
from pllava.core.errors import PllavaError
from pllava.core.params import Section
from pllava.core.validation import problems

STUDIES = Path("recipes/studies")


class Study(Section):
    """Points are sets of overrides of params.yaml, by dotted key. Each point is trained with each seed."""

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
        lines = [f"  {line}" for line in problems(error, Study)]
        raise PllavaError(f"{path}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None
