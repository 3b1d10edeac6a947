"""The answers of an evaluation, `outputs/evaluate/<benchmark>/results.jsonl`: one line for each question and model.

    for row in Answers(RESULTS / "mvbench" / FILE): print(row["question"], row["prediction"], row["correct"])

`AnswerRow` is the schema. Rows stream: one is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # pydantic wants these below Python 3.12
)

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from pllava.core.errors import PllavaError

RESULTS = Path("outputs/evaluate")  # <benchmark>/results.jsonl
FILE = "results.jsonl"
VERSION = 1  # of the schema; a key may be added without a new version, none may change its meaning


@with_config(extra="allow")
class TaskScore(TypedDict):
    """The score of one answer on one task of a judged benchmark."""

    value: float | None  # 0..1, what is averaged; None: the judgement failed, which is missing and never 0
    correct: NotRequired[bool]  # the judge's yes or no
    score: NotRequired[float]  # the judge's 0 to 5
    f1: NotRequired[float]  # token F1, 0..1, by the offline scorer
    missing: NotRequired[str]  # why there is no value
    suspicious: NotRequired[bool]  # the answer looks like a verdict or an instruction


@with_config(extra="allow")
class AnswerRow(TypedDict):
    """One model's answer to one question."""

    model: str  # base, single_frame, adapted; a name of one's own in a study
    id: str  # <stem of the annotation file>/<index in it>; the same for all models
    task: str  # what the question counts for: a task of MVBench, the set, VCGBench's kind of question
    media: str  # the clip, relative to the benchmark's root
    start: float | None  # seconds of the clip that are shown; None: from its beginning
    end: float | None  # None: to its end
    question: str  # as annotated
    second_question: NotRequired[str]  # VCGBench's consistency asks about the same thing twice
    candidates: list[str]  # options of a multiple choice; empty for an open question
    answer: str  # the truth; "(B) text" in MVBench; empty where there is none
    prediction: str  # the model's answer, trimmed as the template says; empty where the clip can't be read
    second_prediction: NotRequired[str]
    correct: bool | None  # right on all that it is scored by; None: not scored, a judgement is missing, or there is no truth
    error: str | None  # why the clip can't be read; such a question counts as wrong. None: it was read
    scores: NotRequired[dict[str, TaskScore]]  # {task: score}, of a judged benchmark


_SCHEMA: TypeAdapter[AnswerRow] = TypeAdapter(AnswerRow)


class Answers:
    """The rows of a file, as often as they are iterated. Raises PllavaError at a line that is no answer."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[AnswerRow]:
        yield from (row for _, row in self.with_place())

    def with_place(self) -> Iterator[tuple[str, AnswerRow]]:
        """("<file>, line 7", row) of each line."""
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                place = f"{self.path}, line {number}"
                yield place, read_row(line, place)


def read_row(line: bytes | str, where: str) -> AnswerRow:
    """One line of a results file. Raises PllavaError, which names the place and the keys that are wrong."""
    try:
        return _SCHEMA.validate_json(line)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        raise PllavaError(f"{where} is not JSON: {problems[0]['ctx']['error']}. Evaluate again: pllava evaluate")
    missing = [str(problem["loc"][0]) for problem in problems if problem["type"] == "missing"]
    if missing:
        raise PllavaError(f"{where} has no {', '.join(missing)}: it is no result. docs/evaluation.md names the keys")
    key = ".".join(str(part) for part in problems[0]["loc"])
    if not key:
        raise PllavaError(f"{where} is {type(problems[0]['input']).__name__}: it is no result. docs/evaluation.md names the keys")
    raise PllavaError(f"{where} is no result: {key}: {problems[0]['msg'].lower()}. docs/evaluation.md names the keys and what they hold")


def write_answers(path: Path, rows: Iterable[Any]) -> Iterator[Any]:
    """Write each row as it passes; the caller makes the folder and renames it when all have passed."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield row
