"""What a training leaves in `outputs/train`: `read_history()`, and where its adapter folder lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError

OUTPUT = Path("outputs/train")
ADAPTER = OUTPUT / "adapter"  # all that inference needs; its manifest.json is written last
HISTORY = OUTPUT / "history.jsonl"  # one line for each record of the loss: step, loss, learning rate


def read_history(path: Path = HISTORY) -> list[dict[str, Any]]:
    """The records of a training in their order; empty where there is no file. Raises PllavaError at a line that is no JSON object."""
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
