"""A test set of one's own: the same questions from JSON lines, a JSON list and MVBench's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pllava.benchmarks.benchmark import load_benchmark
from pllava.core.errors import PllavaError
from pllava.core.params import Evaluate

ROW = {"video": "a.mp4", "question": "Which way?", "options": ["left", "right"], "answer": "right"}


def written(root: Path, *rows: object, name: str = "asked.jsonl") -> Path:
    root.mkdir(exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) if name.endswith(".jsonl") else json.dumps(rows)
    (root / name).write_text(text)
    return root


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("name", ["asked.jsonl", "asked.json"])
def test_a_file_of_questions_is_read(tmp_path: Path, name: str, mark: str) -> None:
    root = written(tmp_path / "set", ROW, ROW | {"task": "Order", "start": 1.5, "end": 2}, name=name)
    (root / name).write_text(mark + (root / name).read_text())
    first, second = load_benchmark("kitchen").samples(root)
    assert (first.id, first.task, first.media) == ("asked/0000", "Kitchen", root / "media" / "a.mp4")
    assert (first.question, first.candidates, first.answer) == ("Which way?", ("left", "right"), "right")
    assert (first.start, first.end) == (None, None)
    assert (second.task, second.start, second.end) == ("Order", 1.5, 2)


def test_the_layout_of_mvbench_is_read_under_any_name(tmp_path: Path) -> None:
    written(tmp_path / "json", {"video": "a.mp4", "question": "?", "candidates": ["x", "y"], "answer": "x"}, name="stirring.json")
    (tmp_path / "video" / "stirring").mkdir(parents=True)
    (sample,) = load_benchmark("kitchen").samples(tmp_path)
    assert (sample.task, sample.media) == ("Stirring", tmp_path / "video/stirring/a.mp4")


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "right"])
def test_an_answer_is_an_option_or_its_letter(tmp_path: Path, answer: str) -> None:
    (sample,) = load_benchmark("kitchen").samples(written(tmp_path / "set", ROW | {"answer": answer}))
    assert sample.answer == "right"


def test_an_option_that_looks_like_a_letter_is_itself(tmp_path: Path) -> None:
    (sample,) = load_benchmark("kitchen").samples(written(tmp_path / "set", ROW | {"options": ["B", "A"], "answer": "A"}))
    assert sample.answer == "A"


def test_limit_counts_by_task(tmp_path: Path) -> None:
    root = written(tmp_path / "set", *[ROW | {"task": task} for task in "xxxyy"])
    assert [sample.task for sample in load_benchmark("kitchen").samples(root, limit=2)] == ["x", "x", "y", "y"]


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "One question a line"), ("\xff", "can't be read"), ("[" * 100_000, "can't be read"), ("3", "no video")]
)
def test_what_is_no_question_is_said(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "asked.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(PllavaError, match=sentence):
        load_benchmark("kitchen").samples(tmp_path)


def test_an_empty_folder_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(PllavaError, match="pllava data add kitchen --split test"):
        load_benchmark("kitchen").samples(tmp_path)


def test_a_name_like_a_published_one_is_taken_for_a_slip() -> None:
    with pytest.raises(ValidationError, match="did you mean 'msvd_qa'"):
        Evaluate.model_validate({"benchmarks": {"msvdqa": {"root": "data", "template": "vicuna"}}})
