"""Instruction corpora in the format of VideoChat2-IT: `for row in instructions(corpus): ...`, a row or its problem at a time.

A corpus is a JSON list of `{"video" | "image": path under the media root, "QA": [{"i", "q", "a"}, ...], "start"?, "end"?}` (seconds).
A corpus of kind text has no media.
`i` of the first turn opens the text; an empty `q` asks for a caption. Other keys of a row are ignored. In place of QA a row may hold chat
`messages` (see `pllava.stages.prepare.messages`), and in place of the list there may be one row a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pllava.core.params import Corpus
from pllava.stages.prepare.annotations import NotJson, count_rows, rows_of
from pllava.stages.prepare.messages import turns_of


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


def instructions(corpus: Corpus, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Instruction | Problem]:
    """Rows of one annotation file, as they stand there. Raises PllavaError if the file itself is unusable."""
    for index, row in rows_of(corpus.annotations, _what(corpus)):
        if wanted(index):
            problem = Problem(corpus.name, str(corpus.annotations), index)
            yield _parse(row, corpus, index, problem) or problem


def read_corpus(corpus: Corpus) -> tuple[list[Instruction], list[Problem]]:
    """The whole file at once, for small ones: (rows, problems)."""
    rows = list(instructions(corpus))
    return [row for row in rows if isinstance(row, Instruction)], [row for row in rows if isinstance(row, Problem)]


def size_of(corpus: Corpus) -> int:
    """Rows in the annotation file, usable or not."""
    return count_rows(corpus.annotations, _what(corpus))


def _what(corpus: Corpus) -> str:
    return f"the annotations of corpus {corpus.name}"


def _parse(row: Any, corpus: Corpus, index: int, problem: Problem) -> Instruction | None:
    """The row, or None with all its reasons in `problem`."""

    def wrong(text: str, code: str = "malformed") -> None:
        problem.reasons.append((code, text))

    if isinstance(row, NotJson):
        wrong(row)
        return None
    if not isinstance(row, dict):
        wrong(f"the row is {type(row).__name__}, not an object")
        return None
    media = "" if corpus.kind == "text" else row.get(corpus.kind)
    if corpus.kind != "text" and (not isinstance(media, str) or not media):
        wrong(f"no {corpus.kind!r} path (keys: {', '.join(map(str, row)) or 'none'})")
    else:
        problem.media = media = str(media)
        if PurePosixPath(media).is_absolute() or ".." in PurePosixPath(media).parts:
            wrong(f"{media!r} leads out of the media root {corpus.media}")
    start, end = (_seconds(row.get(name), name, wrong) for name in ("start", "end"))
    if start is not None and end is not None and end <= start:
        wrong(f"end {end:g} s is not after start {start:g} s", "time bound")
    turns = _chat(row["messages"], wrong) if "messages" in row else _turns(row.get("QA"), wrong)
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


def _chat(messages: Any, wrong: Any) -> list[Turn]:
    turns = turns_of(messages, wrong)
    return _turns(turns, wrong) if turns else []  # turns_of has said why there is none


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
