"""Questions, lettered answers and scores are those of the published MVBench script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pllava.benchmarks.letter_match import format_question, letter_answer, score
from pllava.core.errors import PllavaError


def test_recorded(reference: Path):
    recorded = json.loads((reference / "scoring.json").read_text())
    for case in recorded["mvbench_check_ans"]:
        if case["error"]:  # an answer without text, where the published script fails
            with pytest.raises(PllavaError, match="no text"):
                score(case["pred"], case["gt"])
        else:
            assert score(case["pred"], case["gt"]) == case["result"], case
    for case in recorded["mvbench_qa_template"]:
        data = case["data"]
        assert format_question(data["question"], data["candidates"]) == case["question"]
        assert letter_answer(data["answer"], data["candidates"]) == case["answer"]
