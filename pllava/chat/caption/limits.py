"""The option `--limit max_seconds=600`, as arguments of `Limits`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """The limits of texts "NAME=NUMBER". Raises PllavaError for an unknown name or a number that is not above 0."""
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
