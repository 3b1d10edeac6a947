"""What is answered is on disk, whole, whenever the process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pllava.evaluate.journal import Journal, answered, finished, shard


def test_finished_units_are_found_again(tmp_path: Path):
    journal = Journal(tmp_path / "a" / "journal.jsonl")
    journal.add(0, [{"prediction": "(A) líneas\nnuevas\u2028"}])
    journal.add(2, [])
    journal.close()
    assert Journal(journal.path).done == finished(journal.path) == {0, 2}
    assert answered(journal.path) == {0: [{"prediction": "(A) líneas\nnuevas\u2028"}], 2: []}


@pytest.mark.parametrize("torn", [b'{"unit": 1, "rows": [{"a"', b'{"unit": 1, "rows": []}', b"\x00\x00\x00\n", b"\x00" * 9])
def test_a_torn_end_is_cut_off_and_written_again(tmp_path: Path, torn: bytes):
    path = tmp_path / "journal.jsonl"
    whole = b'{"unit": 0, "rows": []}\n'
    path.write_bytes(whole + torn)
    journal = Journal(path)
    assert list(journal.done) == [0]
    journal.add(1, [{"x": 1}])
    journal.close()
    assert path.read_bytes() == whole + b'{"unit": 1, "rows": [{"x": 1}]}\n'


def test_it_goes_when_the_results_are_written(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(0, [])
    journal.remove()
    assert not journal.path.exists()


def test_the_journals_of_several_processes_are_one(tmp_path: Path):
    path = tmp_path / "ab.jsonl"
    for rank, unit in ((0, 1), (1, 0)):
        journal = Journal(shard(path, rank))
        journal.add(unit, [{"rank": rank}])
        journal.close()
    shard(path, 1).write_bytes(shard(path, 1).read_bytes() + b'{"unit": 7, "ro')  # being written just now
    other = Journal(tmp_path / "abc.jsonl")
    other.add(5, [])
    assert finished(path) == {0, 1} and answered(path)[0] == [{"rank": 1}]
    Journal(path).remove()
    assert [file.name for file in tmp_path.iterdir()] == ["abc.jsonl"]
