"""The interface of a benchmark: its samples, the prompt of a sample, and the score of an answer.

    benchmark = load_benchmark("msvd_qa")
    sample = benchmark.samples("data/raw/VideoQA/MSVD_QA")[0]
    benchmark.prompt(sample)                               # the user's message, without the conversation template
    benchmark.score(row, judge)                            # {"MSVD-QA": Score(value=1.0, ...)}

A benchmark is an entry point of the group `pllava.benchmarks` (pyproject.toml lists ours), the `BENCHMARK` of a Python file that `source`
in params.yaml names (docs/extending.md has an example of both), or under any other name a test set of one's own (`own_test_set.py`).
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
OWN = "test_set"  # the entry point that reads a test set of any other name


@dataclass(frozen=True, slots=True)  # slots, because a run may hold a hundred thousand samples
class Sample:
    """One question about one clip. VCGBench's consistency asks two questions about it, and scores the two answers together."""

    id: str  # "<annotation file's stem>/<index in the file>"
    task: str
    media: Path  # video file, GIF, or folder of numbered frames
    start: float | None  # seconds
    end: float | None
    question: str
    candidates: tuple[str, ...] = ()  # of multiple choice; () for an open question
    answer: str = ""  # text of the right candidate, reference answer or caption; "" if there is none
    second_question: str | None = None

    @property
    def letter_answer(self) -> str:
        """The right option with its letter, "(B) left"; "(@) ..." if the answer is none of the options, so no reply can be right."""
        return letter_answer(self.answer, self.candidates)

    @property
    def chance(self) -> float:
        """Expected accuracy of a random guess, 0..1; 0 for an open question."""
        return 1 / len(self.candidates) if self.candidates else 0.0


@dataclass(frozen=True)
class Score:
    """The score of one answer on one task. Averages are taken of `value`. A failed judgement has the value None, never 0."""

    value: float | None  # 0..1
    correct: bool | None = None
    score: float | None = None  # 0..5, from a judge
    f1: float | None = None  # 0..1, from the offline scorer
    missing: str | None = None  # why the value is None
    suspicious: bool = False  # the answer looks like a verdict, and may try to instruct the judge

    def as_dict(self) -> dict[str, Any]:
        """`value`, and every other field that is not None; `suspicious` only if True."""
        present = {name: value for name, value in asdict(self).items() if value is not None}
        return {"value": self.value} | {name: value for name, value in present.items() if name != "suspicious" or value}


class Benchmark(ABC):
    """A subclass defines `title`, `samples` and `score`. The other members have defaults."""

    title: ClassVar[str]
    judged: ClassVar[bool] = False  # whether `score` calls the judge
    frame_rule: ClassVar[str] = "eval"  # how pllava.read_video samples frames
    average_over: ClassVar[Literal["tasks", "questions"]] = "tasks"  # units of equal weight in the main average; reports show both averages
    share_clips: ClassVar[bool] = False  # the tasks score the same answers, so all tasks resample the same videos

    @abstractmethod
    def samples(self, root: str | Path, limit: int | None = None) -> list[Sample]:
        """The questions under `root`, in a fixed order. `limit`: only the first so many of each task."""

    @abstractmethod
    def score(self, row: Mapping[str, Any], judge: Judge) -> dict[str, Score]:
        """{task: score} of one row of results.jsonl. The clip of the row could be read."""

    def annotations(self, root: str | Path) -> list[Path]:
        """The annotation files. They enter the benchmark's hash beside the media."""
        return sorted(Path(root).rglob("*.json"))

    def prompt(self, sample: Sample) -> str:
        """The user's message about the clip, without the conversation template."""
        return sample.question

    def expected(self, sample: Sample) -> str:
        """The right answer, as results.jsonl stores it and `score` reads it."""
        return sample.answer

    def tasks(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The tasks that an answer counts for. (): the answer is kept and not scored."""
        return (row["task"],)


def load_benchmark(name: str, source: str | Path | None = None) -> Benchmark:
    """The BENCHMARK of the Python file `source`; without one, the benchmark `name` of an installed package, or else one's own test set.

    Raises PllavaError if `source` holds no benchmark.
    """
    if source is None:
        if name not in plugins.names(GROUP):
            return plugins.load(GROUP, OWN)(name)
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
