"""The contract of a benchmark: which samples, how each is asked, how an answer is scored.

    benchmark = load_benchmark("msvd_qa")
    sample = benchmark.samples("data/raw/VideoQA/MSVD_QA")[0]
    benchmark.prompt(sample)                               # what the model is asked, before the conversation template
    benchmark.score(row, judge)                            # {"MSVD-QA": Score(value=1.0, ...)}

A benchmark is an entry point of the group `pllava.benchmarks` (pyproject.toml lists ours), or a file anywhere with a `BENCHMARK`, named by
`source` in params.yaml (docs/extending.md has an example of both).
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pllava.benchmarks.letter_match import letter_answer
from pllava.core import plugins
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge

GROUP = "pllava.benchmarks"


@dataclass(frozen=True, slots=True)  # there may be a hundred thousand
class Sample:
    """One question about one clip; two about one clip where both answers are scored together (VCGBench's consistency)."""

    id: str  # "<annotation file's stem>/<index in the file>"
    task: str
    media: Path  # video file, GIF, or folder of numbered frames
    start: float | None  # seconds
    end: float | None
    question: str
    candidates: tuple[str, ...] = ()  # multiple choice only
    answer: str = ""  # the truth: text of the right candidate, reference answer or caption; "" where there is none
    second_question: str | None = None

    @property
    def letter_answer(self) -> str:
        """The right option as it is scored, "(B) left"; "(@) ..." when the answer is none of the options and nothing can be right."""
        return letter_answer(self.answer, self.candidates)

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess; 0 for an open question."""
        return 1 / len(self.candidates) if self.candidates else 0.0


@dataclass(frozen=True)
class Score:
    """One answer on one task. `value` is what is averaged; None: the judgement failed, which is missing and never 0."""

    value: float | None  # 0..1
    correct: bool | None = None
    score: float | None = None  # 0..5, by a judge
    f1: float | None = None  # 0..1, by the offline scorer
    missing: str | None = None  # why there is no value
    suspicious: bool = False  # the answer looks like a verdict: somebody may have tried to talk to the judge

    def as_dict(self) -> dict[str, Any]:
        """Without the fields that say nothing; `value` always."""
        present = {name: value for name, value in asdict(self).items() if value is not None}
        return {"value": self.value} | {name: value for name, value in present.items() if name != "suspicious" or value}


class Benchmark(ABC):
    """Subclass it and give `title`, `samples` and `score`; the rest has defaults."""

    title: ClassVar[str]
    judged: ClassVar[bool] = False  # `score` asks the judge
    frame_rule: ClassVar[str] = "eval"  # sampling of pllava.read_video
    average_over: ClassVar[Literal["tasks", "questions"]] = "tasks"  # what the main average weighs alike; both are reported
    share_clips: ClassVar[bool] = False  # tasks are several scores of the same answers: intervals draw the same videos for all of them

    @abstractmethod
    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        """Every question under `root`, in a fixed order; the first `limit` of each task."""

    @abstractmethod
    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        """{task: score} of one row of results.jsonl, whose clip could be read."""

    def annotations(self, root: str | Path) -> list[Path]:
        """The files that define the benchmark: they are hashed with the media."""
        return sorted(Path(root).rglob("*.json"))

    def prompt(self, sample: Sample) -> str:
        """The user's message about the clip; the template is put around it."""
        return sample.question

    def expected(self, sample: Sample) -> str:
        """The truth, as results.jsonl shows it and `score` gets it."""
        return sample.answer

    def tasks(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The tasks an answer counts for. None: it is kept, but has nothing to be scored by."""
        return (row["task"],)


def load_benchmark(name: str, source: str | Path | None = None) -> Benchmark:
    """The benchmark that an installed package provides under this name, or the BENCHMARK of the Python file `source`.

    Raises PllavaError when there is none.
    """
    if source is None:
        if name not in plugins.names(GROUP):
            raise PllavaError(
                f"no benchmark {name!r}. Known: {', '.join(plugins.names(GROUP))}; or name a Python file: evaluate.benchmarks.{name}.source"
            )
        provided = plugins.load(GROUP, name)
        return provided() if isinstance(provided, type) else provided
    path = Path(source)
    spec = importlib.util.spec_from_file_location(f"pllava_benchmark_{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PllavaError(f"evaluate.benchmarks.{name}.source is {path}, which is no Python file. See docs/evaluation.md")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    benchmark = getattr(module, "BENCHMARK", None)
    if not isinstance(benchmark, Benchmark):
        raise PllavaError(f"{path} has no BENCHMARK that is a pllava.benchmarks.benchmark.Benchmark. See docs/evaluation.md")
    return benchmark
