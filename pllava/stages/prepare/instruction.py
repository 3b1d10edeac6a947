"""Instruction corpora in the format of VideoChat2-IT: `for row in instructions(corpus)` yields each row, or its problem.

A corpus is a JSON list of `{"video" | "image": path under the media root, "QA": [{"i", "q", "a"}, ...], "start"?, "end"?}` (seconds), or a
file with one such row a line. A corpus of kind text has no media.
`i` of the first turn opens the text; an empty `q` asks for a caption. Other keys of a row are ignored.
Instead of QA a row may hold chat `messages` or `conversations` (`messages.py`). The path may stand in a list of one, and under the key
`videos` or `images`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from reprlib import repr as short
from typing import Any

from pllava.core.params import Corpus
from pllava.stages.prepare.annotations import NotJson, count_rows, rows_of
from pllava.stages.prepare.messages import clips_in, turns_of, without_tag

LONGEST = 400  # characters of a reason: a row can hold a key or a path of any length


@dataclass(frozen=True)
class Turn:
    """One question with its answer. i: the instruction, q: the question, a: the answer."""

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
    """Why a row is unusable: every reason as (code, text). The report counts rows by code."""

    corpus: str
    file: str
    index: int
    media: str = ""
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.file} row {self.index} (corpus {self.corpus}): {'; '.join(text for _, text in self.reasons)}"


def instructions(corpus: Corpus, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Instruction | Problem]:
    """The wanted rows of one annotation file, in its order. Raises PllavaError if the file itself is unusable."""
    for index, row in rows_of(corpus.annotations, _role(corpus)):
        if wanted(index):
            problem = Problem(corpus.name, str(corpus.annotations), index)
            yield _parse(row, corpus, index, problem) or problem


def read_corpus(corpus: Corpus) -> tuple[list[Instruction], list[Problem]]:
    """(rows, problems) of a whole file. It holds all rows in memory."""
    rows = list(instructions(corpus))
    return [row for row in rows if isinstance(row, Instruction)], [row for row in rows if isinstance(row, Problem)]


def size_of(corpus: Corpus) -> int:
    """Number of rows in the annotation file, usable or not."""
    return count_rows(corpus.annotations, _role(corpus))


def _role(corpus: Corpus) -> str:
    return f"the annotations of corpus {corpus.name}"


def _parse(row: Any, corpus: Corpus, index: int, problem: Problem) -> Instruction | None:
    """The well-formed row; else None, and every reason is added to `problem`."""

    def wrong(text: str, code: str = "malformed") -> None:
        problem.reasons.append((code, text if len(text) <= LONGEST else f"{text[: LONGEST - 100]} ... {text[-90:]}"))

    if isinstance(row, NotJson):
        wrong(row)
        return None
    if not isinstance(row, dict):
        wrong(f"the row is {type(row).__name__}, not an object")
        return None
    forms = [key for key in ("messages", "QA", "conversations") if key in row]
    form = next((key for key in forms if row[key]), forms[0] if forms else None)
    chat = form if form != "QA" else None
    media = "" if corpus.kind == "text" else _media(row, row.get(chat) if chat else None, corpus.kind, wrong)
    if media is not None:
        problem.media = media
        if PurePosixPath(media).is_absolute() or ".." in PurePosixPath(media).parts:
            wrong(f"{media!r} leads out of the media root {corpus.media}")
    start, end = (_seconds(row.get(name), name, wrong) for name in ("start", "end"))
    if start is not None and end is not None and end <= start:
        wrong(f"end {end:g} s is not after start {start:g} s", "time bound")
    turns: list[Turn] = []
    if form is None:
        wrong(f"it has neither QA nor messages or conversations, which hold the text (keys: {', '.join(map(str, row)) or 'none'})")
    else:
        turns = _chat(row[chat], chat, wrong) if chat else _turns(row["QA"], wrong)
    if problem.reasons:
        return None
    if corpus.kind != "text":
        turns[0] = replace(turns[0], q=without_tag(turns[0].q))
    return Instruction(corpus, index, str(media), start, end, tuple(turns))


def _media(row: dict[str, Any], chat: Any, kind: str, wrong: Any) -> str | None:
    """The path of the row's one clip. None when the row names no clip or several; `wrong` then gets the reason."""
    values = [value for value in (row.get(kind), row.get(f"{kind}s"), *clips_in(chat)) if value]
    lists = [value if isinstance(value, list) else [value] for value in values]
    paths = [path for paths in lists for path in paths]
    other = "images" if kind == "video" else "videos"
    if not paths or not all(isinstance(path, str) and path for path in paths):
        wrong(f"no {kind!r} path (keys: {', '.join(map(str, row)) or 'none'})")
    elif len(set(paths)) > 1 or max(map(len, lists)) > 1:
        wrong(f"it names {len(paths)} clips ({', '.join(paths[:3])}), a row has one: make a row of each")
    elif row.get(other):
        wrong(f"it names {other} beside its {kind}, a row has one clip: leave {other!r} away, or make a row of each")
    else:
        return str(paths[0])
    return None


def _seconds(value: Any, name: str, wrong: Any) -> float | None:
    """A time bound in seconds; None when it is missing, or wrong: `wrong` then gets the reason."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        wrong(f"{name} is {short(value)}, seconds from 0 are needed", "time bound")
        return None
    return float(value)


def _chat(messages: Any, key: str, wrong: Any) -> list[Turn]:
    turns = turns_of(messages, wrong, key)
    return _turns(turns, wrong) if turns else []  # `wrong` already has the reason when there is none


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
        not_text = [key for key, text in texts.items() if not isinstance(text, str)]
        if not_text:
            wrong(f"QA[{number}] has {not_text[0]!r} of type {type(texts[not_text[0]]).__name__}, text is needed")
        elif not texts["a"].strip():
            wrong(f"QA[{number}] has an empty answer", "empty answer")
        else:
            turns.append(Turn(**texts))
    return turns
