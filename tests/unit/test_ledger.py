"""The ledger: rows that were added are there after a kill -9, whole additions or none, from several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.core.ledger import PAGE, Ledger

ROOT = Path(__file__).parents[2]
LINES = "import os, signal, sys\nfrom pathlib import Path\nfrom pllava.core.ledger import Ledger\n"


def python(code: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LINES + code, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "rows.ledger"


def test_rows_are_found_by_key_and_come_in_the_order_of_their_first_addition(path: Path):
    rows = [("b", {"a": [1, None, "\ud800"]}), (b"\xff", 2.5), (7, "seven")]
    with Ledger(path) as ledger:
        ledger.add(rows)
        ledger.add([(b"\xff", "new"), ("7", "text")])
    with Ledger(path) as ledger:
        assert ledger.get("b") == rows[0][1]
        assert (ledger.get(7), ledger.get("7"), ledger.get("c")) == ("seven", "text", None)
        assert list(ledger) == ["b", b"\xff", 7, "7"]
        assert dict(ledger.items())[b"\xff"] == "new"
        assert len(ledger) == 4


def test_a_kill_between_two_additions_costs_the_second_alone(path: Path):
    code = """
def rows():
    yield "second", 1
    os.kill(os.getpid(), signal.SIGKILL)
ledger = Ledger(Path(sys.argv[1]))
ledger.add([("first", 1), ("beside it", 2)])
ledger.add(rows())
"""
    assert python(code, path).wait() == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert list(ledger.items()) == [("first", 1), ("beside it", 2)]
        ledger.add([("second", 2)])
        assert ledger.get("second") == 2


def test_a_kill_while_rows_are_written_to_disk_leaves_whole_additions(path: Path):
    """Large additions: SQLite writes pages before the end of a transaction, and the next process takes them back."""
    code = (
        "for number in range(10**6): Ledger(Path(sys.argv[1])).add([((number, part)[1] + 8 * number, 'x' * 500_000) for part in range(8)])"
    )
    process = python(code, path)
    while not path.exists() or path.stat().st_size < 10_000_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    with Ledger(path) as ledger:
        assert len(ledger) % 8 == 0
        assert set(ledger) == set(range(len(ledger)))


def test_an_error_among_the_rows_adds_none(path: Path):
    with Ledger(path) as ledger:
        with pytest.raises(TypeError):
            ledger.add([("a", 1), ("b", object())])
        assert len(ledger) == 0
        ledger.add([("c", 1)])


def test_processes_that_begin_at_once_lose_nothing(path: Path):
    code = "ledger = Ledger(Path(sys.argv[1]))\nfor number in range(20): ledger.add([(f'{os.getpid()} {number}', number)])"
    processes = [python(code, path) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    with Ledger(path) as ledger:
        assert len(ledger) == 80


def test_rows_may_be_added_while_others_are_read(path: Path):
    with Ledger(path) as ledger, Ledger(path) as other:
        ledger.add((number, number) for number in range(2 * PAGE + 1))
        for key, _ in ledger.items():
            if key == PAGE:
                other.add([("late", 0)])
        assert [key for key in ledger if key == "late"] == ["late"]


def test_rows_of_other_settings_go(path: Path):
    with Ledger(path, "a") as ledger:
        ledger.add([("row", 1)])
    with Ledger(path, "a") as ledger, Ledger(path, table="other") as other:
        assert (ledger.dropped, len(ledger)) == (0, 1)
        other.add([("row", 2)])
    with Ledger(path, "b") as ledger, Ledger(path, table="other") as other:
        assert (ledger.dropped, len(ledger), len(other)) == (1, 0, 1)


def test_a_file_that_is_no_ledger_is_refused(path: Path):
    path.parent.mkdir()
    path.write_text("a list of videos\n" * 100)
    with pytest.raises(PllavaError, match=r"not the progress of an earlier run .*Remove it to start over"):
        Ledger(path)
    assert path.read_text().startswith("a list")
