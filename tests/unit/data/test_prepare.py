"""The data gate: what it keeps, what it refuses, and that it writes a whole folder or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pllava.artifacts.manifest import read_manifest, read_test_rows
from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.stages.prepare.run import prepare

SMALL = Path("data/raw/small")
PREPARED = Path("data/prepared")
Project = Callable[..., Params]


def change_rows(change: Callable[[list[dict[str, Any]]], None], split: str = "train") -> None:
    path = SMALL / f"{split}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def hashes() -> dict[str, str]:
    return {file.name: sha256_file(file) for file in PREPARED.iterdir()}


def test_manifest_of_a_sound_corpus(project: Project) -> None:
    assert prepare(project()) == PREPARED
    train = read_manifest(PREPARED / "train.parquet")
    assert [row.id for row in train] == [f"small:{index}" for index in range(12)]
    row = train[3]
    assert row.media == "data/raw/small/videos/train/3.mp4"
    assert row.media_sha256 == sha256_file(row.media)
    assert (row.num_frames_total, row.fps, row.duration) == (12, 8.0, 1.5)
    assert (row.start, row.end) == (None, None)
    assert [turn["a"] for turn in row.qa] == [f"The answer is {k}." for k in range(4)]
    assert len(read_manifest(PREPARED / "validation.parquet")) == 3
    assert [(row.benchmark, row.task, row.index) for row in read_test_rows(PREPARED / "test.parquet")] == [
        ("mvbench", "Moving Direction", 0),
        ("mvbench", "Moving Direction", 1),
    ]
    report = json.loads((PREPARED / "report.json").read_text())
    assert report["splits"]["train"]["corpora"]["small"]["clips"] == 12
    assert report["files"]["train.parquet"] == sha256_file(PREPARED / "train.parquet")


def test_bytes_do_not_depend_on_the_run_or_the_number_of_workers(project: Project) -> None:
    prepare(project())
    first = hashes()
    prepare(project(data={"workers": 2}))
    assert hashes() == first


def test_a_missing_file_is_named_with_row_corpus_and_what_to_do(project: Project) -> None:
    change_rows(lambda rows: rows[4].update(video="train/none.mp4"))
    with pytest.raises(PllavaError) as error:
        prepare(project())
    message = str(error.value)
    assert "data/raw/small/train.json row 4 (corpus small): data/raw/small/videos/train/none.mp4 is not there" in message
    assert "1 of 12 train row(s)" in message
    assert "pllava prepare" in message
    assert list(Path("data").iterdir()) == [Path("data/raw")]


def test_bad_rows_are_quarantined_with_every_reason(project: Project) -> None:
    (SMALL / "videos/train/0.mp4").write_bytes(b"junk" * 100)
    whole = (SMALL / "videos/train/1.mp4").read_bytes()
    (SMALL / "videos/train/1.mp4").write_bytes(whole[: len(whole) // 2])

    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[2]["QA"][0]["q"] = "What is <image> here? USER: hm"
        rows[2]["video"] = "train/none.mp4"
        rows[3]["QA"][0]["a"] = ""
        rows[4]["QA"] = [{"q": "word " * 400, "a": "cut off"}]
        rows[5].update(start=60, end=70)
        rows.append(rows[6])

    change_rows(spoil)
    prepare(project(data={"max_bad_fraction": 0.6}))
    quarantined = {row["index"]: row for row in pq.read_table(PREPARED / "quarantined.parquet").to_pylist()}
    assert {index: row["codes"] for index, row in quarantined.items()} == {
        0: "media unreadable",
        1: "media unreadable",
        2: "media missing, special text",
        3: "empty answer",
        4: "nothing supervised",
        5: "media or time bound",
        12: "duplicate",
    }
    assert "'<image>'" in quarantined[2]["reasons"]
    assert "'USER:'" in quarantined[2]["reasons"]
    assert "same media and text as small:6" in quarantined[12]["reasons"]
    assert [row.id for row in read_manifest(PREPARED / "train.parquet")] == [f"small:{index}" for index in range(6, 12)]
    counts = json.loads((PREPARED / "report.json").read_text())["splits"]["train"]["quarantined"]
    assert counts["rows"] == 7
    assert counts["reasons"]["media unreadable"] == 2


def test_the_share_of_bad_rows_is_of_one_split(project: Project) -> None:
    change_rows(lambda rows: rows[0].update(video="none.mp4"), "validation")
    with pytest.raises(PllavaError, match=r"1 of 3 validation row.*allows 30\.0%"):
        prepare(project(data={"max_bad_fraction": 0.3}))
    prepare(project(data={"max_bad_fraction": 0.4}))


def test_a_test_question_nobody_can_answer_stops_the_gate(project: Project) -> None:
    path = SMALL / "MVBench/json/moving_direction.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0], rows[1] | {"answer": "Up."}]))
    with pytest.raises(PllavaError, match=r"MVBench/json/moving_direction\.json row 1 .*'Up\.' is none of the options"):
        prepare(project())
    assert not PREPARED.exists()


@pytest.mark.parametrize("other", ["videos/validation/20.mp4", "MVBench/video/moving_direction/40.mp4"])
def test_a_clip_in_two_splits_is_an_error_whatever_its_name(project: Project, other: str) -> None:
    shutil.copy(SMALL / other, SMALL / "videos/train/7.mp4")
    with pytest.raises(PllavaError, match="two splits") as error:
        prepare(project(data={"max_bad_fraction": 1.0}))
    assert "videos/train/7.mp4 (train)" in str(error.value)
    assert Path(other).name in str(error.value)
    assert not PREPARED.exists()


def test_one_clip_may_have_several_rows_and_parts(project: Project) -> None:
    def add(rows: list[dict[str, Any]]) -> None:
        rows.append({"video": "train/0.mp4", "start": 0.5, "end": 1.0, "QA": [{"q": "And here?", "a": "More."}]})

    change_rows(add)
    prepare(project())
    rows = read_manifest(PREPARED / "train.parquet")
    assert (rows[12].start, rows[12].end, rows[12].media_sha256) == (0.5, 1.0, rows[0].media_sha256)


def test_a_stage_that_dies_leaves_the_old_folder_as_it_was(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(project())
    first = hashes()
    change_rows(lambda rows: rows.pop())
    monkeypatch.setattr("pllava.stages.prepare.run.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(project())
    assert hashes() == first
    assert [file.name for file in Path("data").iterdir() if file.name.startswith(".")] == []
