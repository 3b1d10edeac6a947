"""Results with known right and wrong, and what nobody should be able to smuggle through them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HOSTILE = '<img src=x onerror="document.title=1">"\'&</script><script>document.title=2</script>'


def result(number: int, model: str, correct: bool | None, **others: Any) -> dict[str, Any]:
    return {
        "model": model,
        "id": f"moves/{number:04d}",
        "task": "Direction" if number % 2 else "Count",
        "media": f"video/{number % 3}.mp4",
        "start": None,
        "end": None,
        "question": f"Question number {number}?",
        "candidates": ["left", "right"],
        "answer": "(A) left",
        "prediction": "(A) left" if correct else "(B) right",
        "correct": correct,
        "error": None,
    } | others


def write(folder: Path, rows: Iterable[dict[str, Any]], benchmark: str = "mvbench") -> Path:
    path = folder / benchmark / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
