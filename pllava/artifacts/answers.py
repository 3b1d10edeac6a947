"""A results.jsonl on disk: `for row in Results(path)`, as often as needed; one row is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError

RESULTS = Path("outputs/evaluate")  # <benchmark>/results.jsonl
METRICS = Path("metrics")  # <benchmark>.json


class Results:
    """Iterating raises PllavaError at a line that is no JSON object."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise PllavaError(f"{self.path}, line {number} is not JSON: {error}. Evaluate again: pllava evaluate") from None
                if not isinstance(row, dict):
                    raise PllavaError(f"{self.path}, line {number} is {type(row).__name__}, no result. Evaluate again: pllava evaluate")
                yield row
