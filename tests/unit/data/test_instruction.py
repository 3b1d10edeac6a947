"""Rows of VideoChat2-IT: what is read, and that each problem of a row is named with its file and number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pllava.core.errors import PllavaError
from pllava.core.params import Corpus
from pllava.stages.prepare.instruction import Turn, read_corpus


def read(tmp_path: Path, rows: Any, kind: Any = "video") -> Any:
    path = tmp_path / "rows.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return read_corpus(Corpus(name="c", kind=kind, annotations=path, media=tmp_path))


def test_row_with_all_keys(tmp_path: Path) -> None:
    row = {
        "video": "a/b.mp4",
        "start": 1,
        "end": 2.5,
        "QA": [{"i": "Look.", "q": "What?", "a": "A cat."}, {"q": "", "a": "Sleeps."}],
        "extra": 1,
    }
    (sample,), bad = read(tmp_path, [row])
    assert not bad
    assert (sample.id, sample.media, sample.start, sample.end) == ("c:0", "a/b.mp4", 1.0, 2.5)
    assert sample.turns == (Turn("Look.", "What?", "A cat."), Turn("", "", "Sleeps."))


def test_image_corpus_reads_image(tmp_path: Path) -> None:
    good, bad = read(
        tmp_path, [{"image": "a.jpg", "QA": [{"q": "?", "a": "b"}]}, {"video": "a.mp4", "QA": [{"q": "?", "a": "b"}]}], "image"
    )
    assert [sample.media for sample in good] == ["a.jpg"]
    assert [problem.index for problem in bad] == [1]


def test_all_problems_of_a_row_are_named(tmp_path: Path) -> None:
    rows = [
        {"video": "a.mp4", "QA": [{"q": "?", "a": "fine"}]},
        {"QA": [{"q": "?", "a": " "}, {"q": 3, "a": "x"}], "start": -1, "end": 2},
        {"video": "a.mp4", "QA": [], "start": 3, "end": 3},
        "text",
    ]
    good, bad = read(tmp_path, rows)
    assert [sample.index for sample in good] == [0]
    assert [problem.index for problem in bad] == [1, 2, 3]
    assert str(tmp_path / "rows.json") in str(bad[0])
    assert "row 1 (corpus c)" in str(bad[0])
    assert sorted(code for code, _ in bad[0].reasons) == ["empty answer", "malformed", "malformed", "time bound"]
    assert sorted(code for code, _ in bad[1].reasons) == ["malformed", "time bound"]


@pytest.mark.parametrize("text", ["{", '{"video": 1}', "\xff"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PllavaError, match=r"rows\.json"):
        read(tmp_path, text)


def test_a_missing_file_is_named_with_its_corpus(tmp_path: Path) -> None:
    with pytest.raises(PllavaError, match=r"none\.json is not there.*corpus c"):
        read_corpus(Corpus(name="c", annotations=tmp_path / "none.json", media=tmp_path))
