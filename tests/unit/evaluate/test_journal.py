"""What is answered is on disk, whole, whenever the process dies; it is read back in order, a row at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pllava.stages.evaluate.prediction_log import Answers, PredictionLog, finished, shard

MODELS = ("base", "adapted")
WHOLE = b'{"id": "q0", "model": "base"}\n{"unit": 0, "rows": 1}\n'


def row(question: int, model: str = "base", **more: str) -> dict[str, str]:
    return {"id": f"q{question}", "model": model, **more}


def read(path: Path, questions: int = 9) -> list[dict[str, str]]:
    return list(Answers(path, {f"q{n}": n for n in range(questions)}, MODELS))


def test_finished_units_are_found_again(tmp_path: Path):
    journal = PredictionLog(tmp_path / "a" / "journal.jsonl")
    answer = row(3, prediction="(A) líneas\nnuevas\u2028")
    journal.add(0, [answer])
    journal.add(2, [])
    journal.close()
    assert PredictionLog(journal.path).done == finished(journal.path) == {0, 2}
    assert read(journal.path) == [answer]


def test_rows_come_in_the_order_of_the_benchmark_as_often_as_asked(tmp_path: Path):
    journal = PredictionLog(tmp_path / "journal.jsonl")
    journal.add(1, [row(2, "adapted"), row(0, "adapted"), row(2), row(0)])
    journal.add(0, [row(1), row(1, "adapted")])
    answers = Answers(journal.path, {f"q{n}": n for n in range(3)}, MODELS)
    expected = [row(n, model) for n in range(3) for model in MODELS]
    assert list(answers) == list(answers) == expected
    assert len(answers) == 6


@pytest.mark.parametrize(
    "torn",
    [
        b'{"id": "q1", "mod',  # within a row
        b'{"id": "q1", "model": "base"}\n',  # between two rows of a unit
        b'{"id": "q1", "model": "base"}\n{"unit": 1, "rows": 1}',  # before the end of its last line
        b'{"unit": 1, "rows": 2}\n',  # rows that never reached the disk
        b'{"id": "q1", "model": "base"}\n{"id": "q2", "model": "base"}\n{"unit": 1, "rows": 1}\n',  # a row of another unit
        b"\x00\x00\x00\n",
        b"\x00" * 9,
    ],
)
def test_a_torn_end_is_cut_off_and_written_again(tmp_path: Path, torn: bytes):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE + torn)
    assert finished(path) == {0}
    assert read(path) == [row(0)]
    journal = PredictionLog(path)
    assert list(journal.done) == [0]
    journal.add(1, [row(1)])
    journal.close()
    assert path.read_bytes() == WHOLE + b'{"id": "q1", "model": "base"}\n{"unit": 1, "rows": 1}\n'


def test_it_goes_when_the_results_are_written(tmp_path: Path):
    journal = PredictionLog(tmp_path / "journal.jsonl")
    journal.add(0, [])
    journal.remove()
    assert not journal.path.exists()


def test_the_journals_of_several_processes_are_one(tmp_path: Path):
    path = tmp_path / "ab.jsonl"
    for rank, unit in ((0, 1), (1, 0)):
        journal = PredictionLog(shard(path, rank))
        journal.add(unit, [row(unit)])
        journal.close()
    shard(path, 1).write_bytes(shard(path, 1).read_bytes() + b'{"id": "q7", "mo')  # being written just now
    other = PredictionLog(tmp_path / "abc.jsonl")
    other.add(5, [])
    assert finished(path) == {0, 1}
    assert read(path) == [row(0), row(1)]
    PredictionLog(path).remove()
    assert [file.name for file in tmp_path.iterdir()] == ["abc.jsonl"]


def test_a_question_that_two_processes_answered_counts_once(tmp_path: Path):
    path = tmp_path / "ab.jsonl"
    for rank in range(2):
        journal = PredictionLog(shard(path, rank))
        journal.add(0, [row(0), row(0, "adapted")])
        journal.close()
    answers = Answers(path, {"q0": 0}, MODELS)
    assert len(answers) == 2
    assert list(answers) == [row(0), row(0, "adapted")]


def test_a_unit_is_on_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[bytes] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (fsync(number), synced.append(path.read_bytes())))
    path = tmp_path / "journal.jsonl"
    journal = PredictionLog(path)
    journal.add(0, [row(0)])
    journal.close()
    assert synced == [WHOLE]
