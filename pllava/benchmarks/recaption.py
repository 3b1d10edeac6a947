"""Dense captions of Inter4K or of other videos, with or without reference captions.

Layout: one or more JSON lists of `{video_name, caption?}` in the root, and the videos in any folder under it. Each list is a task. If an
entry has no caption, results.jsonl keeps the model's text without a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.benchmarks.benchmark import Benchmark, Sample, Score
from pllava.benchmarks.io import MediaIndex, read_entries
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge

QUESTION = "Describe this video in detail: what is seen, who does what, and in which order."


class Recaption(Benchmark):
    title = "Dense captions"
    judged = True

    def annotations(self, root: str | Path) -> list[Path]:
        return sorted(Path(root).glob("*.json"))

    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        files = self.annotations(root)
        if not files:
            raise PllavaError(f'{root}: no JSON list of videos there. Write one: [{{"video_name": "a.mp4", "caption": "..."}}]')
        media = MediaIndex(root)
        return [
            Sample(
                id=f"{file.stem}/{index:05d}",
                task=file.stem,
                media=media[str(entry["video_name"])],
                start=None,
                end=None,
                question=QUESTION,
                answer=str(entry.get("caption") or ""),
            )
            for file in files
            for index, entry in enumerate(read_entries(file, ("video_name",))[:limit])
        ]

    def tasks(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return (row["task"],) if row["answer"] else ()

    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        from pllava.benchmarks.judge.rubric import CAPTION

        return {
            task: judge.score(CAPTION, question=row["question"], answer=row["answer"], prediction=row["prediction"])
            for task in self.tasks(row)
        }


BENCHMARK = Recaption()
