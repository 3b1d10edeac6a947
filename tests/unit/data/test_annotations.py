"""Annotation files of both forms: a list and one row a line are the same rows, chat messages and QA the same turns."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pllava.core.errors import PllavaError
from pllava.core.params import Corpus
from pllava.stages.prepare.annotations import NotJson, count_rows, rows_of
from pllava.stages.prepare.instruction import Problem, Turn, read_corpus

CHAT = [
    {"role": "system", "content": "Look."},
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "There."},
]


def parse(tmp_path: Path, rows: list[Any]) -> tuple[list[Any], list[Problem]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_corpus(Corpus(name="c", annotations=path, media=tmp_path))


def test_a_list_and_lines_are_the_same_rows(tmp_path: Path) -> None:
    rows = [{"video": "ä.mp4", "start": 1.5, "QA": [{"q": "?", "a": "\u2603"}]}, {"x": [1, 2.25, None, True]}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.jsonl").write_text("\n" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    assert list(rows_of(tmp_path / "a.json")) == list(rows_of(tmp_path / "a.jsonl")) == list(enumerate(rows))
    assert count_rows(tmp_path / "a.json") == 2


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = json.dumps({"video": "a.mp4", "QA": [{"i": "", "q": "What happens here?", "a": "A dog runs."}] * 5})
    path.write_text("[" + ",".join([row] * 20_000) + "]")
    tracemalloc.start()
    assert count_rows(path) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 < path.stat().st_size


def test_a_bad_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"video": 1}\n{"video": \n\xff\xfe\n{"video": 2}\n{"video": "\\uD83D"}\n{"video": "\\ud83d\\ude00"}\n')
    rows = [row for _, row in rows_of(path)]
    assert rows[0] == {"video": 1} and rows[3] == {"video": 2}
    assert all(isinstance(row, NotJson) for row in rows[1:3])
    assert isinstance(rows[4], NotJson) and rows[5] == {"video": "\U0001f600"}  # half an emoji is no text


@pytest.mark.parametrize(
    ("text", "reason"), [("", "is empty"), ('[{"video": 1}, {"vi', "not JSON"), ("[1, 2", "not JSON"), ('"x"', "begins")]
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(PllavaError, match=rf"rows\.json.*{reason}"):
        list(rows_of(tmp_path / "rows.json"))


def test_chat_messages_become_turns(tmp_path: Path) -> None:
    caption = [{"role": "assistant", "content": "A cat sleeps."}]
    (chat, captioned), bad = parse(tmp_path, [{"video": "a.mp4", "messages": CHAT}, {"video": "b.mp4", "messages": caption}])
    assert not bad
    assert chat.turns == (Turn("Look.", "What?", "A cat."), Turn("", "Where?", "There."))
    assert captioned.turns == (Turn("", "", "A cat sleeps."),)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        (CHAT[:2], "nothing answers it"),
        ([CHAT[1], CHAT[3]], "without an answer between"),
        ([CHAT[1], CHAT[2], CHAT[4]], "answers no question"),
        ([CHAT[1], {"role": "assistant", "content": " "}], "empty answer"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([CHAT[1], {"role": "assistant", "content": 3}], "content of type int"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "'audio'"),
    ],
)
def test_messages_of_another_form_are_named(tmp_path: Path, messages: Any, reason: str) -> None:
    good, (problem,) = parse(tmp_path, [{"video": "a.mp4", "messages": messages}])
    assert not good
    assert reason in str(problem)


@pytest.mark.parametrize("media", ["/etc/passwd", "../secret.mp4", "a/../../b.mp4"])
def test_media_stay_under_their_root(tmp_path: Path, media: str) -> None:
    _, (problem,) = parse(tmp_path, [{"video": media, "messages": CHAT}])
    assert "out of the media root" in str(problem)
