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
    assert rows[0] == {"video": 1}
    assert rows[3] == {"video": 2}
    assert all(isinstance(row, NotJson) for row in rows[1:3])
    assert isinstance(rows[4], NotJson)
    assert rows[5] == {"video": "\U0001f600"}


@pytest.mark.parametrize(
    ("text", "reason"), [("", "is empty"), ('[{"video": 1}, {"vi', "not JSON"), ("[1, 2", "not JSON"), ('"x"', "begins")]
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(PllavaError, match=rf"rows\.json.*{reason}"):
        list(rows_of(tmp_path / "rows.json"))


@pytest.mark.parametrize("form", ["[{}]", "{}"], ids=["list", "lines"])
@pytest.mark.parametrize("value", ["[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000], ids=["lists", "objects"])
def test_deep_rows_are_one_sentence(tmp_path: Path, form: str, value: str) -> None:
    """A reader that notes where each value is would need memory of the square of the depth."""
    path = tmp_path / "rows.jsonl"
    path.write_text(form.replace("{}", f'{{"video": "a.mp4", "QA": [{{"q": "?", "a": "b"}}], "x": {value}}}'))
    corpus = Corpus(name="c", annotations=path, media=tmp_path)
    tracemalloc.start()
    if form == "{}":
        _, (problem,) = read_corpus(corpus)
        assert "recursion depth" in str(problem)
    else:
        with pytest.raises(PllavaError, match="at row 0: maximum recursion depth"):
            read_corpus(corpus)
    assert tracemalloc.get_traced_memory()[1] < 5e7
    tracemalloc.stop()


@pytest.mark.parametrize("form", ["[{}]", "{}"], ids=["list", "lines"])
@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5000, "-" + "9" * 5000, "1e999", '"' + "9" * 5000 + '"', "[" * 300 + "]" * 300])
def test_times_that_are_no_seconds_are_one_short_sentence(tmp_path: Path, form: str, digits: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(form.replace("{}", f'{{"video": "a.mp4", "QA": [{{"q": "?", "a": "b"}}], "id": {digits}, "start": {digits}}}'))
    _, (problem,) = read_corpus(Corpus(name="c", annotations=path, media=tmp_path))
    ((code, text),) = problem.reasons
    assert code == "time bound"
    assert len(text) < 100


@pytest.mark.parametrize("key", ["role", "video", "k" * 10**6])
def test_reasons_stay_short(tmp_path: Path, key: str) -> None:
    value = "x" * 10**6
    _, (problem,) = parse(tmp_path, [{key: [value, value], "messages": [{"role": value, "content": [{"type": value}]}]}])
    assert all(len(text) < 500 for _, text in problem.reasons)


def test_rows_of_any_length_come_from_a_list(tmp_path: Path) -> None:
    """The buffer ends anywhere: in a word, a number, an escape, a character of four bytes."""
    rows: list[Any] = [{"a": "\U0001f600" * count, "b": '\\" ]}' * count} for count in (1, 30_000, 2, 200_000)] + [
        12345,
        -1.5e-7,
        True,
        None,
        "x",
    ] * 9000
    path = tmp_path / "rows.json"
    for escaped in (True, False):
        path.write_text(json.dumps(rows, ensure_ascii=escaped))
        assert [row for _, row in rows_of(path)] == rows


@pytest.mark.parametrize("row", ['{"a": 1} {"b": 2}', '{"a": 1},', ',{"a": 1}', "{'a': 1}", '{"a": tru}', '{"a": "\n"}', "1 2", '{"a": 1'])
def test_the_row_where_a_list_goes_wrong_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.json").write_text(f"[1, {row}]" + " " * 200_000)
    with pytest.raises(PllavaError, match=r"not JSON at row [12]: "):
        list(rows_of(tmp_path / "rows.json"))


def test_text_after_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[1, 2]\n[3]")
    with pytest.raises(PllavaError, match="text after the list"):
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


@pytest.mark.parametrize("name", ["rows.json", "rows.JSON", "rows.jsonl", "rows.JSONL", "rows.NdJson"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
def test_a_byte_order_mark_and_capitals_change_nothing(tmp_path: Path, name: str, mark: str) -> None:
    rows = [{"video": "ä.mp4"}, {"video": "b.mp4"}]
    listed = name.lower().endswith(".json")
    text = json.dumps(rows, ensure_ascii=False) if listed else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for space in ("", "\n "):
        (tmp_path / name).write_text(mark + space + text, encoding="utf-8")
        assert list(rows_of(tmp_path / name)) == list(enumerate(rows))
    (tmp_path / name).write_text(text, encoding="utf-16")
    with pytest.raises(PllavaError, match="is UTF-16"):
        list(rows_of(tmp_path / name))


ASKED = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
TOLD = [{"role": "user", "content": "What?\n<image>"}, {"role": "assistant", "content": "A cat."}]
PARTS = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}]}, TOLD[1]]


@pytest.mark.parametrize(
    "row",
    [
        {"video": "a.mp4", "conversations": ASKED},
        {"video": ["a.mp4"], "conversations": TOLD},
        {"videos": ["a.mp4"], "messages": ASKED, "images": []},
        {"videos": "a.mp4", "messages": TOLD},
        {"video": "a.mp4", "videos": ["a.mp4"], "messages": PARTS},
        {"messages": PARTS},
        {"video": "a.mp4", "QA": [{"i": "", "q": "<video> What?", "a": "A cat."}]},
        {"id": 7, "video": "a.mp4", "conversations": [{"from": "human", "value": "What?"}, ASKED[1]]},
        {"video": "a.mp4", "conversations": [{"from": "Human", "value": "<VIDEO>\nWhat?"}, {"from": "GPT", "value": "A cat."}]},
        {"video": "a.mp4", "messages": None, "conversations": ASKED},
        {"video": "a.mp4", "messages": [], "QA": [{"q": "What?", "a": "A cat."}]},
        {"video": "a.mp4", "QA": None, "conversations": ASKED},
    ],
)
def test_rows_of_other_trainers_are_the_same_row(tmp_path: Path, row: Any) -> None:
    (sample,), bad = parse(tmp_path, [row])
    assert not bad
    assert (sample.media, sample.turns) == ("a.mp4", (Turn("", "What?", "A cat."),))


def test_a_whole_conversation_of_another_trainer(tmp_path: Path) -> None:
    chat = [{"from": "system", "value": "Look."}, *ASKED, {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]
    caption = [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "A cat sleeps."}]
    (whole, captioned), bad = parse(tmp_path, [{"video": "a.mp4", "conversations": chat}, {"video": "b.mp4", "conversations": caption}])
    assert not bad
    assert whole.turns == (Turn("Look.", "What?", "A cat."), Turn("", "Where?", "There."))
    assert captioned.turns == (Turn("", "", "A cat sleeps."),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"videos": ["a.mp4", "b.mp4"], "messages": TOLD}, "names 2 clips (a.mp4, b.mp4), a row has one: make a row of each"),
        ({"video": ["a.jpg", "a.jpg"], "messages": TOLD}, "names 2 clips"),
        ({"video": "b.mp4", "messages": PARTS}, "names 2 clips"),
        ({"videos": ["a.mp4"], "images": ["a.jpg"], "messages": TOLD}, "names images beside its video"),
        ({"videos": [], "messages": TOLD}, "no 'video' path"),
        ({"videos": ["a.mp4"], "query": "What?", "response": "A cat."}, "neither QA nor messages or conversations"),
        ({"video": "a.mp4", "messages": None}, "messages is NoneType"),
        ({"videos": [{"bytes": "AA"}], "messages": TOLD}, "no 'video' path"),
        ({"video": "a.mp4", "conversations": [{"from": "observation", "value": "x"}]}, "conversations[0] has role 'observation'"),
        ({"video": "a.mp4", "conversations": [{"from": "human", "value": 3}]}, "conversations[0] has content of type int"),
    ],
)
def test_rows_whose_meaning_is_not_plain_are_one_sentence(tmp_path: Path, row: Any, reason: str) -> None:
    good, (problem,) = parse(tmp_path, [row])
    assert not good
    assert len(problem.reasons) == 1
    assert reason in str(problem)


@pytest.mark.parametrize("question", ["<image>\n<image>\nWhat?", "What is <video> here?", "<video> and <image>"])
def test_a_tag_elsewhere_is_no_text_to_train_on(tmp_path: Path, question: str, tiny_base_dir: Path) -> None:
    from pllava.stages.prepare.text_checks import TextChecker

    (sample,), _ = parse(tmp_path, [{"video": "a.mp4", "conversations": [{"from": "human", "value": question}, ASKED[1]]}])
    ((code, text), *_) = TextChecker(str(tiny_base_dir), "tiny", 160).report(sample.turns).reasons
    assert code == "special text"
    assert "at the beginning or the end of the first question" in text


def test_words_about_a_tag_stay_in_text_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"QA": [{"q": "<video>", "a": "A tag of HTML."}]}]))
    (sample,), _ = read_corpus(Corpus(name="c", kind="text", annotations=tmp_path / "rows.json"))
    assert sample.turns[0].q == "<video>"


@pytest.mark.parametrize("media", ["/etc/passwd", "../secret.mp4", "a/../../b.mp4"])
def test_media_stay_under_their_root(tmp_path: Path, media: str) -> None:
    _, (problem,) = parse(tmp_path, [{"video": media, "messages": CHAT}])
    assert "out of the media root" in str(problem)
