"""`pllava evaluate compare A B`: a paired test, and which questions flipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pllava import cli
from pllava.core.errors import PllavaError
from pllava.stages.evaluate.compare import _holm, compare


def write(path: Path, right: list[int], task: str = "Moving Count", **fields: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for number, value in enumerate(right):
            row = {"model": "adapted", "id": f"{task}/{number}", "task": task, "media": f"{number // 2}.mp4", "start": None, "end": None}
            row |= {"question": f"q{number}", "candidates": ["1", "2"], "answer": "(A) 1", "prediction": "(A)" if value else "(B)"}
            file.write(json.dumps(row | {"correct": bool(value), "error": None} | fields) + "\n")
    return path


def test_flips_and_the_paired_test(tmp_path: Path):
    a = write(tmp_path / "a" / "results.jsonl", [1] * 20 + [0] * 20)
    b = write(tmp_path / "b" / "results.jsonl", [0] + [1] * 31 + [0] * 8)
    found = compare(a.parent, b)
    (task,) = found.tasks
    assert (task.n, task.a, task.b, task.gained, task.lost) == (40, 0.5, 0.775, 12, 1)
    assert task.difference.value == pytest.approx(0.275)
    assert task.difference.low > 0
    assert task.difference.p < 0.01
    assert [flip.id for flip in found.flips if not flip.gained] == ["Moving Count/0"]
    assert "| Moving Count | 40 | 50.0 | 77.5 | +27.5" in found.text()
    assert "Right in A, wrong in B (1):" in found.text()
    assert "'q0' '(A) 1': '(A)' -> '(B)'" in found.text()


def test_equal_results_differ_in_nothing(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", [1, 0, 1, 0])
    found = compare(a, a)
    assert found.flips == []
    assert found.average.value == 0
    assert found.tasks[0].p_holm == 1


def test_many_tasks_are_corrected_for():
    assert _holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_scores_of_a_judge_are_compared_by_their_value_and_missing_ones_left_out(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", [1, 1], scores={"CI": {"value": 0.4, "correct": False}, "DO": {"value": None, "missing": "x"}})
    b = write(tmp_path / "b.jsonl", [1, 1], scores={"CI": {"value": 0.8, "correct": True}, "DO": {"value": 0.2, "correct": False}})
    found = compare(a, b)
    assert [(task.task, task.n) for task in found.tasks] == [("CI", 2)]
    assert found.missing == 2
    assert found.tasks[0].difference.value == pytest.approx(0.4)
    assert all(flip.gained for flip in found.flips)


def test_results_that_cannot_be_paired_are_refused(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", [1, 0])
    with pytest.raises(PllavaError, match="1 questions are in one of"):
        compare(a, write(tmp_path / "b.jsonl", [1, 0, 0]))
    with pytest.raises(PllavaError, match="Moving Count/0: answer differ"):
        compare(a, write(tmp_path / "c.jsonl", [1, 0], answer="(B) 2"))
    with pytest.raises(PllavaError, match="it has: adapted"):
        compare(a, a, model="champion")
    with pytest.raises(PllavaError, match=r"none\.jsonl is not there"):
        compare(a, tmp_path / "none.jsonl")
    for content, says in {
        b'{"model": "ad': "not JSON",
        b"\xff\xfe\n": "not JSON",
        b"[1]\n": "is list",
        b'{"model": "adapted"}\n': "has no id",
    }.items():
        (tmp_path / "bad.jsonl").write_bytes(content)
        with pytest.raises(PllavaError, match=rf"bad\.jsonl, line 1 {says}|bad\.jsonl, line 1 is {says}"):
            compare(a, tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    "changed",
    [{"media": "x.mp4"}, {"start": 1.0}, {"end": 2.0}, {"question": "?"}, {"candidates": ["1", "3"]}],
    ids=lambda row: next(iter(row)),
)
def test_the_same_id_with_another_content_is_another_question(tmp_path: Path, changed: dict[str, object]):
    a = write(tmp_path / "a.jsonl", [1, 0])
    with pytest.raises(PllavaError, match=f"Moving Count/0: {next(iter(changed))} differ"):
        compare(a, write(tmp_path / "b.jsonl", [1, 0], **changed))


def test_command_line(tmp_path: Path):
    a, b = write(tmp_path / "a.jsonl", [1, 0]), write(tmp_path / "b.jsonl", [1, 1])
    result = CliRunner().invoke(cli.app, ["evaluate", "compare", str(a), str(b)])
    assert result.exit_code == 0
    assert "| Moving Count | 2 | 50.0 | 100.0 |" in result.output
    with pytest.raises(PllavaError, match="two results, found 1"):
        CliRunner().invoke(cli.app, ["evaluate", "compare", str(a)], catch_exceptions=False)


@pytest.mark.parametrize(
    "options",
    [
        ["compare", "a", "b", "--limit", "3"],
        ["--lora-alpha", "4"],
        ["--output", "x"],
        ["--other", "b"],
        ["--model", "m", "--processes", "2"],
    ],
    ids=" ".join,
)
def test_an_option_that_would_change_nothing_is_refused(options: list[str]):
    with pytest.raises(PllavaError, match=f"{options[-2]} is no option of evaluate"):
        CliRunner().invoke(cli.app, ["evaluate", *options], catch_exceptions=False)


def test_with_nothing_to_compare_or_judge_the_folders_that_exist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pllava.stages.evaluate.judging import read_answers

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PllavaError, match="no folder below outputs/ holds answers"):
        read_answers("vcgbench", None)
    Path("outputs/evaluate/mvbench").mkdir(parents=True)
    Path("outputs/evaluate/mvbench/results.jsonl").write_text("")
    with pytest.raises(PllavaError, match="folders with answers: outputs/evaluate/mvbench"):
        read_answers("vcgbench", None)
    with pytest.raises(PllavaError, match="folders with answers: outputs/evaluate/mvbench"):
        compare("outputs/evaluate/other", "outputs/evaluate/mvbench")
