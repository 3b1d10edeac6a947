"""The published layout of MVBench is read as published, a benchmark of the same form without a table entry too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pllava.benchmarks.io import data_sha256
from pllava.benchmarks.mvbench import TASKS, annotation_files, load_samples, score
from pllava.core.errors import PllavaError

RECORDED = json.loads((Path(__file__).parents[2] / "reference" / "scoring.json").read_text())
ENTRY = {"video": "a.mp4", "question": "Which way?", "candidates": ["left", "right"], "answer": "right"}


def write(root: Path, stem: str, folder: str, entries: list[dict]) -> None:
    (root / "json").mkdir(parents=True, exist_ok=True)
    (root / "json" / f"{stem}.json").write_text(json.dumps(entries))
    (root / "video" / folder).mkdir(parents=True, exist_ok=True)


def test_the_table_is_the_published_one():
    published = {
        Path(entry["json"]).stem: (name, entry["prefix"].removeprefix("DATAS/MVBench/video/").rstrip("/"), entry["bound"])
        for name, entry in RECORDED["mvbench_tasks"].items()
    }
    assert published == TASKS


def test_published_folders(tmp_path: Path):
    write(tmp_path, "moving_direction", "clevrer/video_validation", [ENTRY])
    write(tmp_path, "action_sequence", "star/Charades_v1_480", [ENTRY | {"start": 1.5, "end": 4}])
    write(tmp_path, "episodic_reasoning", "tvqa/frames_fps3_hq", [ENTRY | {"video": "castle_s01", "start": 0, "end": 3}])
    samples = load_samples(tmp_path)
    assert [sample.task for sample in samples] == ["Action Sequence", "Moving Direction", "Episodic Reasoning"]  # published order
    assert samples[0].media == tmp_path / "video/star/Charades_v1_480/a.mp4"
    assert (samples[0].start, samples[0].end) == (1.5, 4)
    assert samples[1].media == tmp_path / "video/clevrer/video_validation/a.mp4"
    assert samples[1].start is None
    assert samples[2].media == tmp_path / "video/tvqa/frames_fps3_hq/castle_s01"


def test_folders_named_as_the_json_file(tmp_path: Path):
    write(tmp_path, "moving_direction", "moving_direction", [ENTRY | {"start": 0.5, "end": 1}])
    write(tmp_path, "my_own_task", "my_own_task", [ENTRY, ENTRY])
    samples = load_samples(tmp_path)
    assert [(s.id, s.task) for s in samples] == [
        ("moving_direction/0000", "Moving Direction"),
        ("my_own_task/0000", "My Own Task"),
        ("my_own_task/0001", "My Own Task"),
    ]
    assert samples[0].media == tmp_path / "video/moving_direction/a.mp4"
    assert samples[0].start == 0.5
    assert samples[0].chance == 0.5
    assert samples[0].letter_answer == "(B) right"
    assert len(load_samples(tmp_path, limit=1)) == 2  # of each task


def test_what_is_wrong_is_named(tmp_path: Path):
    with pytest.raises(PllavaError, match=r"no <task>\.json"):
        load_samples(tmp_path)
    write(tmp_path, "moving_count", "elsewhere", [ENTRY])
    with pytest.raises(PllavaError, match=r"video/moving_count .or the published .*clevrer"):
        load_samples(tmp_path)
    write(tmp_path, "moving_count", "moving_count", [{key: ENTRY[key] for key in ("video", "candidates")}])
    with pytest.raises(PllavaError, match=r"moving_count.json\[0\]: no question, answer"):
        load_samples(tmp_path)
    write(tmp_path, "moving_count", "moving_count", [ENTRY | {"video": 3}])
    with pytest.raises(PllavaError, match=r"moving_count.json\[0\]: video is 3"):
        load_samples(tmp_path)
    for key, value in {"video": "/etc/passwd", "question": None, "start": "1.5"}.items():
        write(tmp_path, "moving_count", "moving_count", [ENTRY | {key: value}])
        with pytest.raises(PllavaError, match=rf"moving_count.json\[0\]: {key} is "):
            load_samples(tmp_path)
    (tmp_path / "json/moving_count.json").write_text("[{")
    with pytest.raises(PllavaError, match=r"moving_count\.json is not JSON"):
        load_samples(tmp_path)


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "1e999", "NaN", '"' + "9" * 5000 + '"', "[" * 300 + "]" * 300])
def test_a_time_that_is_no_number_of_seconds(tmp_path: Path, value: str):
    write(tmp_path, "action_sequence", "star/Charades_v1_480", [ENTRY | {"start": "here", "end": 4}])
    file = tmp_path / "json/action_sequence.json"
    file.write_text(file.read_text().replace('"here"', value))
    with pytest.raises(PllavaError, match=r"seconds or null are needed|is not JSON") as refused:
        load_samples(tmp_path)
    assert len(str(refused.value)) < 400


def test_recorded_scores():
    cases = [case for case in RECORDED["mvbench_check_ans"] if not case["error"]]
    assert len(cases) > 200
    assert [case for case in cases if score(case["pred"], case["gt"]) != case["result"]] == []


def test_recorded_answers(tmp_path: Path):
    cases = RECORDED["mvbench_qa_template"]
    write(tmp_path, "t", "t", [case["data"] | {"video": "a.mp4"} for case in cases])
    assert [sample.letter_answer for sample in load_samples(tmp_path)] == [case["answer"] for case in cases]


def test_the_data_hash_sees_questions_and_pixels_but_no_place(tmp_path: Path):
    hashes = []
    for place, pixels, question in (("x", b"1", "Q"), ("y", b"1", "Q"), ("z", b"2", "Q"), ("w", b"1", "R")):
        write(tmp_path / place, "t", "t", [ENTRY | {"question": question}])
        (tmp_path / place / "video/t/a.mp4").write_bytes(pixels)
        root = tmp_path / place
        hashes.append(data_sha256(root, annotation_files(root), load_samples(root)))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_name_too_long_for_a_file_is_hashed_as_one_that_cannot_be_read(tmp_path: Path):
    write(tmp_path, "moving_count", "moving_count", [ENTRY, ENTRY | {"video": "x" * 300}])
    assert len(data_sha256(tmp_path, annotation_files(tmp_path), load_samples(tmp_path))) == 64
