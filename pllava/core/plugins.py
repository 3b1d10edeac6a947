"""Extensions by entry point, ours and those of other packages: `names("pllava.poolings")`, `load("pllava.poolings", "max")`.

Our own poolings, benchmarks, judges and model sources are entry points of this project, so that a new one needs no edit here
(docs/extending.md).
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pllava.core.errors import PllavaError


def names(group: str) -> tuple[str, ...]:
    """Names of all entry points of a group, sorted. Nothing is imported."""
    return tuple(sorted(_points(group)))


def load(group: str, name: str) -> Any:
    """The object of an entry point. Raises PllavaError when no installed package has this name, or when its import fails."""
    points = _points(group)
    if name not in points:
        known = ", ".join(sorted(points)) or "none; is the project installed? Run: pip install -e ."
        raise PllavaError(f"no {name!r} among the entry points {group}; known: {known}")
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise PllavaError(f"the entry point {name} = {points[name].value} of {group} does not load: {error}") from error


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
