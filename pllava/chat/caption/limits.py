"""`--limit max_seconds=600` as `Limits` takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    known = {field.name: float if field.type == "float" else int for field in fields(Limits)}
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limits[name] = known[name](float(value))
            if not limits[name] > 0:
                raise ValueError
        except (KeyError, ValueError, OverflowError):
            raise PllavaError(f"--limit {text}: write NAME=NUMBER, above 0, with one of {', '.join(known)}") from None
    return limits
