"""An SQLite index of results, built in one pass over the files. It answers a filter in milliseconds.

A question that several sources answered is one row. Two questions are the same when their fields SAME are equal (clip, times, words,
options, truth); the id is not enough, because two test sets may use the same ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from pllava.artifacts.answers import AnswerRow, Answers
from pllava.artifacts.gallery_links import label
from pllava.benchmarks.scoring import values
from pllava.core.errors import PllavaError
from pllava.core.files import state_folder
from pllava.registry.result_sources import ResultFile

HOME = Path(".state/gallery")
KEEP_SECONDS = 7 * 24 * 3600  # an index that was not opened for this time is removed
SAME = ("media", "start", "end", "question", "second_question", "candidates", "answer")  # fields that are equal in equal questions
RIGHT, WRONG, UNJUDGED, UNREADABLE = "right", "wrong", "not judged", "unreadable"
ORDER = ("adapted", "single_frame", "base")  # of models on a page; other models follow

SCHEMA = """
CREATE TABLE models (id INTEGER PRIMARY KEY, source TEXT, model TEXT, label TEXT, UNIQUE (source, model));
CREATE TABLE questions (id INTEGER PRIMARY KEY, file INTEGER, benchmark TEXT, sample TEXT, version TEXT, task TEXT, media TEXT,
  start REAL, end REAL, question TEXT, second_question TEXT, candidates TEXT, answer TEXT, UNIQUE (benchmark, sample, version));
CREATE TABLE answers (question INTEGER, model INTEGER, prediction TEXT, second_prediction TEXT, verdict TEXT, right INTEGER, value REAL,
  error TEXT, scores TEXT, PRIMARY KEY (question, model)) WITHOUT ROWID;
CREATE TABLE words (question INTEGER, text TEXT);
"""
INDEXES = """
CREATE INDEX by_task ON questions (benchmark, task);
CREATE INDEX by_model ON answers (model, verdict);
"""


def build(files: Sequence[ResultFile], home: Path = HOME) -> Path:
    """The path of the index of these files. An index from before is used when the files have not changed.

    Raises PllavaError for a line that is no result (the message has file and line), and when the index can't be written to `home`.
    """
    path = home / f"{state(files)}.sqlite"
    try:
        state_folder(home)
    except OSError as error:
        raise PllavaError(_cannot_keep(home, error)) from None
    _remove_old(home)
    if path.is_file():
        os.utime(path)
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(partial)) as database:
            database.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA
            )  # fast and not crash-safe: a half-built index is removed
            _fill(database, files)
            database.executescript(INDEXES + "ANALYZE;")
            database.commit()
        partial.replace(path)
    except sqlite3.OperationalError as error:  # read-only, or the disk is full
        raise PllavaError(_cannot_keep(home, error)) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _cannot_keep(home: Path, error: Exception) -> str:
    return f"the index of the results can't be written to {home.absolute()}: {error}. Make room, or run in a folder that you may write to"


def state(files: Sequence[ResultFile]) -> str:
    """A hash that changes when a file changes, is added or removed. Raises FileNotFoundError when a file does not exist."""
    stats = [(f.source, f.benchmark, str(f.path), f.path.stat().st_size, f.path.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps([SCHEMA, INDEXES, stats]).encode()).hexdigest()[:16]


def _fill(database: sqlite3.Connection, files: Sequence[ResultFile]) -> None:
    models: dict[tuple[str, str], int] = {}
    questions: dict[bytes, int] = {}
    several = len({file.source for file in files}) > 1
    for number, file in enumerate(files):
        for location, row in Answers(file.path).with_location():
            same = json.dumps([file.benchmark, row["id"], *(row.get(key) for key in SAME)], sort_keys=True)
            digest = hashlib.sha256(same.encode()).digest()
            try:
                if (question := questions.get(digest)) is None:
                    question = questions[digest] = len(questions) + 1
                    _add_question(database, question, number, file, row, digest.hex()[:8])
                key = (file.source, str(row["model"]))
                if key not in models:
                    models[key] = len(models) + 1
                    database.execute("INSERT INTO models VALUES (?, ?, ?, ?)", (models[key], *key, label(*key, several)))
                _add_answer(database, question, models[key], row)
            except sqlite3.IntegrityError:
                raise PllavaError(f"{location}: {row['id']} has a second answer of model {row['model']!r}. Evaluate again") from None
    if not questions:
        raise PllavaError(f"{files[0].path} is empty. Evaluate first: pllava evaluate")


def _add_question(database: sqlite3.Connection, number: int, file: int, results: ResultFile, row: AnswerRow, version: str) -> None:
    second = row.get("second_question")
    identity = (number, file, results.benchmark, row["id"], version, row["task"], row["media"], row["start"], row["end"])
    content = (row["question"], second, json.dumps(row["candidates"]), row["answer"])
    database.execute("INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*identity, *content))
    words = (row["id"], row["task"], row["media"], row["question"], row["answer"], second or "", *row["candidates"])
    database.execute("INSERT INTO words VALUES (?, ?)", (number, "\n".join(words).casefold()))


def _add_answer(database: sqlite3.Connection, question: int, model: int, row: AnswerRow) -> None:
    known = [value for value in values(row).values() if value is not None]
    error, correct = row["error"], row["correct"]
    verdict = UNREADABLE if error is not None else UNJUDGED if correct is None else RIGHT if correct else WRONG
    prediction, second = row["prediction"], row.get("second_prediction")
    database.execute(
        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(question, model, prediction, second, verdict, None if correct is None else int(correct)),
            *(sum(known) / len(known) if known else None, error, json.dumps(row["scores"]) if row.get("scores") else None),
        ),
    )
    if prediction or second:
        database.execute("INSERT INTO words VALUES (?, ?)", (question, f"{prediction}\n{second or ''}".casefold()))


def _remove_old(home: Path) -> None:
    for path in [*home.glob("*.sqlite"), *home.glob(".*.partial")]:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink()
