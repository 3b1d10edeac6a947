"""Instruction corpora in the format of VideoChat2-IT: `read_corpus(corpus)` -> rows and problems.

A corpus is a JSON list of `{"video" | "image": path under the media root, "QA": [{"i", "q", "a"}, ...], "start"?, "end"?}` (seconds).
`i` of the first turn opens the text; an empty `q` asks for a caption. Other keys of a row are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pllava.errors import PllavaError
from pllava.params import Corpus


@dataclass(frozen=True)
class Turn:
    i: str
    q: str
    a: str


@dataclass(frozen=True)
class Instruction:
    """One well-formed row. `media` is relative to the media root; `start` and `end` are seconds or None."""

    corpus: Corpus
    index: int
    media: str
    start: float | None
    end: float | None
    turns: tuple[Turn, ...]

    @property
    def id(self) -> str:
        return f"{self.corpus.name}:{self.index}"


@dataclass
class Problem:
    """Why a row is unusable: every reason found, each as (code, text). Codes are what the counts in the report are grouped by."""

    corpus: str
    file: str
    index: int
    media: str = ""
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.file} row {self.index} (corpus {self.corpus}): {'; '.join(text for _, text in self.reasons)}"


def read_corpus(corpus: Corpus) -> tuple[list[Instruction], list[Problem]]:
    """Read one annotation file. Malformed rows come back as problems; raises PllavaError if the file itself is unusable."""
    rows = read_json_list(str(corpus.annotations), f"the annotations of corpus {corpus.name}")
    good: list[Instruction] = []
    bad: list[Problem] = []
    for index, row in enumerate(rows):
        problem = Problem(corpus.name, str(corpus.annotations), index)
        instruction = _parse(row, corpus, index, problem)
        if instruction is None:
            bad.append(problem)
        else:
            good.append(instruction)
    return good, bad


def read_json_list(path: str, what: str) -> list[Any]:
    """A JSON file that must hold a list; `what` names it in the error."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            rows = json.load(file)
    except FileNotFoundError:
        raise PllavaError(f"{path} is not there: {what} in params.yaml. Put the file there (the built-in corpus: pllava render)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PllavaError(f"{path} is not JSON: {error}. It is {what}; write it again, then: pllava prepare") from None
    if not isinstance(rows, list):
        raise PllavaError(f"{path} holds {type(rows).__name__}, a list of rows is needed ({what})")
    return rows


def _parse(row: Any, corpus: Corpus, index: int, problem: Problem) -> Instruction | None:
    """The row, or None with all its reasons in `problem`."""

    def wrong(text: str, code: str = "malformed") -> None:
        problem.reasons.append((code, text))

    if not isinstance(row, dict):
        wrong(f"the row is {type(row).__name__}, not an object")
        return None
    media = row.get(corpus.kind)
    if not isinstance(media, str) or not media:
        wrong(f"no {corpus.kind!r} path (keys: {', '.join(map(str, row)) or 'none'})")
    else:
        problem.media = media
    start, end = (_seconds(row.get(name), name, wrong) for name in ("start", "end"))
    if start is not None and end is not None and end <= start:
        wrong(f"end {end:g} s is not after start {start:g} s", "time bound")
    turns = _turns(row.get("QA"), wrong)
    if problem.reasons:
        return None
    return Instruction(corpus, index, str(media), start, end, tuple(turns))


def _seconds(value: Any, name: str, wrong: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        wrong(f"{name} is {value!r}, seconds from 0 are needed", "time bound")
        return None
    return float(value)


def _turns(qa: Any, wrong: Any) -> list[Turn]:
    if not isinstance(qa, list) or not qa:
        wrong(f"QA is {'empty' if qa == [] else type(qa).__name__}, a list of question and answer pairs is needed")
        return []
    turns = []
    for number, pair in enumerate(qa):
        if not isinstance(pair, dict):
            wrong(f"QA[{number}] is {type(pair).__name__}, not an object")
            continue
        texts = {key: pair.get(key, "") for key in ("i", "q", "a")}
        odd = [key for key, text in texts.items() if not isinstance(text, str)]
        if odd:
            wrong(f"QA[{number}] has {odd[0]!r} of type {type(texts[odd[0]]).__name__}, text is needed")
        elif not texts["a"].strip():
            wrong(f"QA[{number}] has an empty answer", "empty answer")
        else:
            turns.append(Turn(**texts))
    return turns
