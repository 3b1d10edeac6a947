"""The answers of an evaluation, `outputs/evaluate/<benchmark>/results.jsonl`: one line for each question and model.

    for row in Answers(RESULTS / "mvbench" / FILE): print(row["question"], row["prediction"], row["correct"])

`AnswerRow` is the schema. Rows are read one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # pydantic wants these below Python 3.12
)

from pydantic import FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from pllava.core.errors import PllavaError

RESULTS = Path("outputs/evaluate")  # <benchmark>/results.jsonl
FILE = "results.jsonl"
VERSION = 1  # of the schema; a key may be added without a new version, none may change its meaning


@with_config(extra="allow")
class TaskScore(TypedDict):
    """The score of one answer on one task of a judged benchmark."""

    value: float | None  # 0..1, averaged over answers; None: the judgement failed. It counts as missing, not as 0
    correct: NotRequired[bool]  # the judge's yes or no
    score: NotRequired[float]  # the judge's 0 to 5
    f1: NotRequired[float]  # token F1, 0..1, by the offline scorer
    missing: NotRequired[str]  # why `value` is None
    suspicious: NotRequired[bool]  # the answer looks like a verdict or an instruction


@with_config(extra="allow")
class AnswerRow(TypedDict):
    """One model's answer to one question."""

    model: str  # base, single_frame, adapted; in a study, the name of a variant
    id: str  # <stem of the annotation file>/<index in it>; the same for all models
    task: str  # group of the score: a task of MVBench, a kind of question of VCGBench, else the benchmark's set
    media: str  # the clip, relative to the benchmark's root
    start: FiniteFloat | None  # second of the file where the shown part begins; None: its beginning
    end: FiniteFloat | None  # second where the shown part ends; None: its end
    question: str  # as annotated
    second_question: NotRequired[str]  # VCGBench's consistency task asks the same thing twice
    candidates: list[str]  # options of a multiple choice; empty for an open question
    answer: str  # reference answer; "(B) text" in MVBench; empty where there is none
    prediction: str  # the model's answer, trimmed by the rules of the template; empty where the clip can't be read
    second_prediction: NotRequired[str]
    correct: bool | None  # right on all its scores; None: not scored, a judgement is missing, or there is no reference answer
    error: str | None  # why the clip can't be read (the question then counts as wrong); None: it was read
    scores: NotRequired[dict[str, TaskScore]]  # {task: score}, of a judged benchmark


_SCHEMA: TypeAdapter[AnswerRow] = TypeAdapter(AnswerRow)


class Answers:
    """The rows of a file; each iteration reads the file again. Raises PllavaError at a line that is not a valid row."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[AnswerRow]:
        yield from (row for _, row in self.with_location())

    def with_location(self) -> Iterator[tuple[str, AnswerRow]]:
        """("<file>, line 7", row) of each line."""
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                location = f"{self.path}, line {number}"
                yield location, read_row(line, location)


def read_row(line: bytes | str, where: str) -> AnswerRow:
    """The row in one line of a results file. Raises PllavaError, which names `where` and the wrong keys."""
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
    """Write each row, and yield it. The caller makes the folder, and renames it once all rows are written."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield row


def kept() -> str:
    """A sentence that names the folders with answers below outputs/, for an error about missing ones."""
    folders = sorted(str(file.parent) for file in Path("outputs").rglob(FILE))
    return f"folders with answers: {', '.join(folders)}" if folders else "no folder below outputs/ holds answers"
