"""The outputs of a training in `outputs/train`: paths, and `read_history()`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError

OUTPUT = Path("outputs/train")
ADAPTER = OUTPUT / "adapter"  # all files that inference needs; manifest.json is written last
HISTORY = OUTPUT / "history.jsonl"  # one JSON object a line: step, loss, learning rate


def read_history(path: Path = HISTORY) -> list[dict[str, Any]]:
    """The records of a training in their order; [] where there is no file. Raises PllavaError at a line that is not a JSON object."""
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise PllavaError(f"{path}, line {number} is no JSON object. Train again: pllava train")
        records.append(record)
    return records
