"""Reading a benchmark's JSON lists with errors that name the entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.files import read_json


def read_entries(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The list in a JSON file. Raises PllavaError when the file is not there, is no list, or an entry lacks a field."""
    if not path.is_file():
        raise PllavaError(
            f"{path} is not there. Put the benchmark in its published layout (docs/evaluation.md), or mend its root in params.yaml"
        )
    try:
        entries = read_json(path)
    except ValueError as error:
        raise PllavaError(f"{path} is not valid JSON: {error}. Fetch the file again") from None
    if not isinstance(entries, list):
        raise PllavaError(f"{path}: a JSON list is needed, found {type(entries).__name__}")
    for index, entry in enumerate(entries):
        missing = [key for key in needed if not isinstance(entry, dict) or not isinstance(entry.get(key), str | int | float)]
        if missing:
            raise PllavaError(f"{path}[{index}]: no {', '.join(missing)}. Each entry needs {', '.join(needed)}")
    return entries
