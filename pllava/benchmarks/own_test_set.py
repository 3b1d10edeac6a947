"""A test set of one's own: a benchmark of any name, in MVBench's layout or as a file of questions.

MVBench's layout is `json/<task>.json` and `video/<task>/` (`mvbench.py`). A file of questions is a `.jsonl` with one a line, or a `.json`
with a list; the clips lie in `media/` beside it:

    {"video": "pan.mp4", "question": "What is in the pan?", "options": ["eggs", "rice"], "answer": "eggs", "task": "Food", "start": 1.5}

`answer` is the text of an option, or its letter where no option has that text. `task`, `start` and `end` (seconds) may be missing: the task
is then named after the set, and the clip is shown whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pllava.benchmarks.benchmark import Sample
from pllava.benchmarks.mvbench import MVBench, sample_of, task_name
from pllava.core.errors import PllavaError

MEDIA = "media"
LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")


class OwnTestSet(MVBench):
    def __init__(self, name: str = "test_set") -> None:
        self.title = name  # type: ignore[misc]

    def annotations(self, root: str | Path) -> list[Path]:
        """The annotation files under `root`, sorted. Raises PllavaError if there is none."""
        files = [file for pattern in ("*.jsonl", "*.json", "json/*.json") for file in sorted(Path(root).glob(pattern))]
        if not files:
            raise PllavaError(
                f"{root}: no test set there; a .jsonl or .json file, or json/<task>.json is needed (docs/your-data.md). "
                f"Add one: pllava data add {self.title} --split test --annotations FILE --media FOLDER"
            )
        return files

    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        root = Path(root)
        files = [file for file in self.annotations(root) if file.parent == root]
        samples = [self._sample(file, index, row) for file in files for index, row in _rows(file)]
        return _limited(samples, limit) + (super().samples(root, limit) if any(root.glob("json/*.json")) else [])

    def _sample(self, file: Path, index: int, row: Any) -> Sample:
        if isinstance(row, dict):
            options = row.get("candidates", row.get("options"))
            row = row | {"candidates": options}
            if isinstance(options, list):
                row["answer"] = _option(row.get("answer"), [str(option) for option in options])
        values = sample_of(f"{file} row {index}", row, file.parent / MEDIA)
        return Sample(f"{file.stem}/{index:04d}", str(row.get("task") or task_name(self.title)), *values)


def _rows(file: Path) -> list[tuple[int, Any]]:
    """(index, row) of the file. Raises PllavaError when it is not text, not JSON, or no list."""
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".jsonl":
            return [(index, json.loads(line)) for index, line in enumerate(text.splitlines()) if line.strip()]
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise PllavaError(
            f"{file} can't be read: {error}. {'One question a line' if file.suffix == '.jsonl' else 'A JSON list'} is needed"
        ) from None
    if not isinstance(rows, list):
        raise PllavaError(f"{file}: a JSON list is needed, found {type(rows).__name__}")
    return list(enumerate(rows))


def _option(answer: Any, options: list[str]) -> Any:
    """The option that the answer names by its letter, or the answer as it is."""
    letter = LETTER.fullmatch(answer.strip()) if isinstance(answer, str) and answer not in options else None
    index = ord(letter[1].lower()) - ord("a") if letter else len(options)
    return options[index] if index < len(options) else answer


def _limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    """The first `limit` samples of each task; all of them for None."""
    counts: dict[str, int] = {}
    kept = []
    for sample in samples:
        counts[sample.task] = counts.get(sample.task, 0) + 1
        if limit is None or counts[sample.task] <= limit:
            kept.append(sample)
    return kept
