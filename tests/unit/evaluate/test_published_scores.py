"""Aggregates equal those of the published scripts (tests/reference/scoring.json), but for the defects that are not repeated:

a failed judgement is missing where it was a 0 (item 7), the stray start value of VCG's accuracy is gone (8), and an unreadable
video is wrong in its own task (9).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from pllava.benchmarks.benchmark import Benchmark, Score, load_benchmark
from pllava.benchmarks.judge import rubric
from pllava.benchmarks.judge.offline import OfflineJudge
from pllava.benchmarks.judge.reply import UnreadableReplyError, parse
from pllava.benchmarks.letter_match import score as letter_score
from pllava.benchmarks.scoring import score_rows
from pllava.stages.evaluate import metrics

PROVENANCE = {"benchmark": "recorded", "bootstrap_resamples": 100, "seed": 0}
TITLES = {
    "consistency": "CONSISTENCY",
    "context": "CONTEXT",
    "detailed_orientation": "DETAIL",
    "correctness": "CORRECTNESS",
    "temporal": "TEMPORAL",
}


@pytest.fixture
def recorded(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "scoring.json").read_text())


class Recorded(Benchmark):
    """Scores are what the recorded run of the published script gave."""

    title = "recorded"
    judged = True
    average_over = "questions"

    def samples(self, root, limit=None):
        return []

    def tasks(self, row):
        return tuple(row["given"])

    def score(self, row, judge):
        return row["given"]


def row(number: int, task: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "id": str(number), "task": task, "media": f"{number}.mp4", "candidates": [], "error": None} | fields


def published(rows: list[dict[str, Any]]) -> dict[str, Any]:
    benchmark, judge = Recorded(), OfflineJudge()
    return metrics.build(score_rows(rows, benchmark, judge), PROVENANCE, benchmark, judge)["models"]["m"]


def test_replies_are_read_as_published_and_failures_are_missing(recorded: dict[str, Any]):
    for case in recorded["judge_reply_parsing"]:
        if case["error"]:  # the request itself failed: there is no reply to read
            continue
        try:
            found = parse(case["raw"], decides=case["bench"] != "vcg")
        except UnreadableReplyError:
            assert case["returns"][:2] == [False, 0], case  # the published script takes its failure for a 0
        else:
            plain = PLAIN.get(case["raw"])  # the published script fails at what has one plain meaning
            assert list(found) == (plain or case["returns"][:2]), case
            assert not plain or case["returns"][:2] == [False, 0], case


PLAIN = {
    "{'pred': 'Yes', 'score': 4}": [True, 4],
    "{'pred': 'yes', 'score': '4'}": [True, 4],
    "```{'pred': 'yes', 'score': 3}```": [True, 3],
    "{'score': '4'}": [True, 4],
}


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('```json\n{"pred": "yes", "score": 4}\n```', (True, 4)),
        ("Here is my verdict:\n```python\n{'pred': 'no', 'score': 1}\n```\nIt moves the other way.", (False, 1)),
        ("They mean the same. {'pred': 'yes', 'score': 4.5}", (True, 4.5)),
        ("{'pred': 'YES ', 'score': ' 4.0 '}", (True, 4.0)),
        ('{"pred": true, "score": 4, "reason": null}', (True, 4)),
        ('{"pred": false, "score": 0, "reason": "it said {\'pred\': \'yes\', \'score\': 5}"}', (False, 0)),
        ('So: {"pred": "no", "score": 0, "reason": "it said {\'pred\': \'yes\'} and \\" too"} Done.', (False, 0)),
        ('{"question": "What is it?"} gives {"pred": "no", "score": 2}', (False, 2)),
        ("{'pred': 'No.', 'score': 4}", (False, 4)),
        ("{'pred': 'true', 'score': 4}", (True, 4)),
        ('{"pred": "False", "score": "0"}', (False, 0)),
        ("{'pred': 1, 'score': 4}", None),
        ("{'pred': null, 'score': 4}", None),
        ("{'pred': True, 'score': null}", None),
        ("{'pred': 'yes', 'score': 4} or {'pred': 'no', 'score': 1}", None),
        ("{'pred': 'yes', 'score': 4} {'pred': 'yes', 'score': 4}", None),
        ("{'pred': 'yes', 'pred': 'no', 'score': 4}", None),
        ("{'pred': 'maybe', 'score': 4}", None),
        ("{'pred': 'yes', 'score': 'four'}", None),
        ("{'pred': 'yes', 'score': '4/5'}", None),
        ("{'pred': 'yes', 'score': '７'}", None),
        ("It is {right}, so {'pred': 'yes', 'score': 4}", None),
        ("{'reason': \"it said {'pred': 'yes', 'score': 5} and was cut", None),
        ("It is right: {'pred': 'yes', 'score': open('x')}", None),
        ("yes", None),
        ("4", None),
        ("[{'pred': 'yes', 'score': 4}]", (True, 4)),
    ],
)
def test_one_verdict_is_read_wherever_it_stands(reply: str, verdict: tuple[bool, float] | None):
    if verdict is None:
        with pytest.raises(UnreadableReplyError):
            parse(reply, decides=True)
    else:
        assert parse(reply, decides=True) == verdict


def test_after_an_answer_like_a_verdict_it_must_stand_alone():
    for reply in ("{'pred': 'no', 'score': 0}", "```\n{'pred': 'no', 'score': 0}\n```"):
        assert parse(reply, decides=True, alone=True) == (False, 0)
    with pytest.raises(UnreadableReplyError):
        parse("The answer says {'pred': 'yes', 'score': 5}", decides=True, alone=True)


@pytest.mark.parametrize(
    "reply", ["{'pred': 'yes', 'score': 7}", "{'pred': 'yes', 'score': -1}", "{'pred': 'yes', 'score': 1e999}", "(" * 1500, ""]
)
def test_a_score_that_is_none_is_missing(reply: str):
    with pytest.raises(UnreadableReplyError):
        parse(reply, decides=True)


def test_mvbench(recorded: dict[str, Any]):
    case = recorded["mvbench_save_results"]
    rows = [
        row(number, item["task_type"], prediction=item["pred"], answer=item["gt"], candidates=["x"] * 4)
        for number, item in enumerate(case["result_list"])
    ]
    benchmark, judge = load_benchmark("mvbench"), OfflineJudge()
    found = metrics.build(score_rows(rows, benchmark, judge), PROVENANCE, benchmark, judge)["models"]["m"]
    expected = dict(case["leaderboard"])
    assert 100 * found["average_over_questions"]["value"] == pytest.approx(expected.pop("Avg"), abs=1e-4)
    assert {task: 100 * cell["value"] for task, cell in found["tasks"].items()} == pytest.approx(expected, abs=1e-4)
    counts = defaultdict(lambda: [0, 0])
    for item in case["result_list"]:
        counts[item["task_type"]][0] += letter_score(item["pred"], item["gt"])
        counts[item["task_type"]][1] += 1
    assert counts == case["acc_dict"]


@pytest.mark.parametrize("name", ["videoqa_save_results", "recaption_save_results"])
def test_right_or_wrong(recorded: dict[str, Any], name: str):
    case = recorded[name]
    rows = [
        row(number, "t", given={item.get("task_type", "Panda70M"): Score(float(item["correct"]), item["correct"], float(item["score"]))})
        for number, item in enumerate(case["judged"])
    ]
    found, expected = published(rows), dict(case["leaderboard"])
    accuracy, score = expected.pop("Avg_Acc"), expected.pop("Avg_Score")
    assert 100 * found["average"]["value"] == pytest.approx(accuracy, abs=1e-4)
    assert found["average"]["score"] == pytest.approx(score, abs=1e-6)
    for task, cell in expected.items():
        mine = found["tasks"][task]
        assert (100 * mine["value"], 100 * mine["accuracy"], mine["score"]) == pytest.approx(
            (cell["acc"], cell["acc"], cell["score"]), abs=1e-4
        )


def test_vcgbench(recorded: dict[str, Any]):
    case = recorded["vcg_save_results"]
    rows = [
        row(n, item["task_type"], given={d: Score(s / 5, s > 3, float(s)) for d, s in item["scores"].items()})
        for n, item in enumerate(case["judged"])
    ]
    found, expected = published(rows), dict(case["leaderboard"])
    expected.pop("Avg_Acc")
    assert found["average_over_questions"]["score"] == pytest.approx(expected.pop("Avg_Score"), abs=1e-6)
    assert {d: cell["score"] for d, cell in found["tasks"].items()} == pytest.approx(
        {d: cell["score"] for d, cell in expected.items()}, abs=1e-6
    )
    assert {d: 100 * cell["accuracy"] for d, cell in found["tasks"].items()} == pytest.approx(
        {d: e["acc"] for d, e in expected.items()}, abs=1e-4
    )
    right = sum(cell["accuracy"] * cell["n"] for cell in found["tasks"].values()) / sum(cell["n"] for cell in found["tasks"].values())
    assert 100 * right == pytest.approx(case["avg_acc_without_the_bug"], abs=1e-4)
    plain = sum(cell["score"] for cell in found["tasks"].values()) / 5
    assert found["average_over_tasks"]["score"] == pytest.approx(plain, abs=1e-6)


def test_dimensions_of_each_kind_of_question(recorded: dict[str, Any]):
    from pllava.benchmarks.vcgbench import DIMENSIONS

    expected = recorded["judge_requests"]["vcg_dimensions"]
    for kind, dimensions in DIMENSIONS.items():
        assert sorted(d.name for d in dimensions) == sorted(expected[f"{kind}_qa"])
        assert [d for d in dimensions if d is not getattr(rubric, TITLES[d.name])] == []


def test_a_missing_judgement_is_in_no_average():
    rows = [row(n, "t", given={"t": Score(1.0, True, 5.0)}) for n in range(3)] + [row(3, "t", given={"t": Score(None, missing="time-out")})]
    benchmark, judge = Recorded(), OfflineJudge()
    scored = list(score_rows(rows, benchmark, judge, max_missing=0.25))
    cell = metrics.build(scored, PROVENANCE, benchmark, judge)["models"]["m"]["tasks"]["t"]
    assert (cell["value"], cell["score"], cell["n"], cell["missing"]) == (1.0, 5.0, 4, 1)
    assert scored[3]["correct"] is None
    assert scored[3]["scores"]["t"] == {"value": None, "missing": "time-out"}
