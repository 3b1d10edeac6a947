"""What is answered is on disk, whole, whenever the process dies; it is read back in order, a row at a time."""

from __future__ import annotations

from pathlib import Path

from pllava.stages.evaluate.prediction_log import Answers, PredictionLog, finished

MODELS = ("base", "adapted")


def row(question: int, model: str = "base", **more: str) -> dict[str, str]:
    return {"id": f"q{question}", "model": model, **more}


def read(path: Path, questions: int = 9) -> list[dict[str, str]]:
    return list(Answers(path, {f"q{n}": n for n in range(questions)}, MODELS))


def test_finished_units_are_found_again(tmp_path: Path):
    log = PredictionLog(tmp_path / "a" / "log.ledger")
    answer = row(3, prediction="(A) líneas\nnuevas\u2028")
    log.add(0, [answer])
    log.add(2, [])
    log.close()
    assert PredictionLog(log.path).done == finished(log.path) == {0, 2}
    assert read(log.path) == [answer]


def test_rows_come_in_the_order_of_the_benchmark_as_often_as_asked(tmp_path: Path):
    log = PredictionLog(tmp_path / "log.ledger")
    log.add(1, [row(2, "adapted"), row(0, "adapted"), row(2), row(0)])
    log.add(0, [row(1), row(1, "adapted")])
    answers = Answers(log.path, {f"q{n}": n for n in range(3)}, MODELS)
    expected = [row(n, model) for n in range(3) for model in MODELS]
    assert list(answers) == list(answers) == expected


def test_it_goes_when_the_results_are_written(tmp_path: Path):
    log = PredictionLog(tmp_path / "log.ledger")
    log.add(0, [])
    log.remove()
    assert not list(tmp_path.iterdir())


def test_several_processes_write_to_one_log(tmp_path: Path):
    logs = [PredictionLog(tmp_path / "ab.ledger") for _ in range(2)]
    for unit in (1, 0, 2):
        logs[unit % 2].add(unit, [row(unit)])
    assert logs[0].done == logs[1].done == {0, 1, 2}
    assert read(tmp_path / "ab.ledger") == [row(0), row(1), row(2)]


def test_a_question_that_two_processes_answered_counts_once(tmp_path: Path):
    for log in [PredictionLog(tmp_path / "ab.ledger") for _ in range(2)]:
        log.add(0, [row(0), row(0, "adapted")])
        log.close()
    answers = Answers(tmp_path / "ab.ledger", {"q0": 0}, MODELS)
    assert list(answers) == [row(0), row(0, "adapted")]
