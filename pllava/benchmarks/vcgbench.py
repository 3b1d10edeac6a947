"""VCGBench (arXiv 2306.05424): free answers, judged 0 to 5 on five dimensions.

Layout: `Zero_Shot_QA/Benchmarking_QA/{generic,temporal,consistency}_qa.json`, lists of `{video_name, Q, A}` (consistency: `{video_name, Q1,
Q2, A}`), and the videos in any folder under the root. A generic answer is judged for correctness of information, detail orientation and
contextual understanding, and a temporal answer for temporal understanding. The two answers of a consistency entry are judged together, each
with its question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.benchmarks.benchmark import Benchmark, Sample, Score
from pllava.benchmarks.io import MediaIndex, read_entries
from pllava.benchmarks.judge import rubric

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge

# kind of question -> rubrics of its dimensions, which tables call CI, DO, CU, TU and CO
DIMENSIONS: dict[str, tuple[rubric.Rubric, ...]] = {
    "generic": (rubric.CORRECTNESS, rubric.DETAIL, rubric.CONTEXT),
    "temporal": (rubric.TEMPORAL,),
    "consistency": (rubric.CONSISTENCY,),
}


class VCGBench(Benchmark):
    title = "VCGBench"
    judged = True
    average_over = "questions"  # the paper's average: 1996 x CI, DO, CU and 499 x TU, CO
    share_clips = True

    def annotations(self, root: str | Path) -> list[Path]:
        return [self._file(root, kind) for kind in DIMENSIONS if self._file(root, kind).is_file()]

    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        media = MediaIndex(root)
        present = self.annotations(root) or [self._file(root, "generic")]  # no file: read_entries raises and names the first
        samples = []
        for file in present:
            kind = file.stem.removesuffix("_qa")
            question_keys = ("Q1", "Q2") if kind == "consistency" else ("Q",)
            for index, entry in enumerate(read_entries(file, ("video_name", *question_keys, "A"))[:limit]):
                samples.append(
                    Sample(
                        id=f"{kind}/{index:04d}",
                        task=kind,
                        media=media[str(entry["video_name"])],
                        start=None,
                        end=None,
                        question=str(entry[question_keys[0]]),
                        answer=str(entry["A"]),
                        second_question=str(entry["Q2"]) if kind == "consistency" else None,
                    )
                )
        return samples

    def tasks(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(dimension.title for dimension in DIMENSIONS[row["task"]])

    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        fields = {"question": row["question"], "answer": row["answer"], "prediction": row["prediction"]}
        if row["task"] == "consistency":
            fields |= {"second_question": row["second_question"], "second_prediction": row["second_prediction"]}
        if not fields["prediction"] or not fields.get("second_prediction", "-"):  # as published: 0, without asking the judge
            return {task: judge.nothing() for task in self.tasks(row)}
        return {dimension.title: judge.score(dimension, **fields) for dimension in DIMENSIONS[row["task"]]}

    @staticmethod
    def _file(root: str | Path, kind: str) -> Path:
        return Path(root) / "Zero_Shot_QA" / "Benchmarking_QA" / f"{kind}_qa.json"


BENCHMARK = VCGBench()
