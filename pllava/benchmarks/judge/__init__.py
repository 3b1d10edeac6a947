"""Scoring open answers: by a language model behind an OpenAI-compatible endpoint, or offline by comparing words.

    judge = make_judge(params.judge)
    judge.score(rubric.ANSWER, question="What does he cook?", answer="noodles", prediction="He cooks noodles.")

Which of the two is decided by the environment (PLLAVA_JUDGE_BASE_URL and PLLAVA_JUDGE_MODEL), and named in every result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pllava.benchmarks.benchmark import Score
from pllava.benchmarks.judge.rubric import Rubric
from pllava.core import plugins

if TYPE_CHECKING:
    from pllava.core.params import Judge as JudgeSettings

GROUP = "pllava.judges"
__all__ = ["Judge", "Rubric", "make_judge"]


class Judge(Protocol):
    name: str  # as tables show it
    measure: str  # what the values of its scores are, in words
    concurrency: int  # how many `score` calls may run at once

    def score(self, rubric: Rubric, **fields: str) -> Score:
        """Score one answer. `fields`: those of the rubric. A failed judgement is a Score without value."""

    def nothing(self) -> Score:
        """The score of no answer: wrong, and 0 on this judge's scale."""

    def provenance(self) -> dict[str, Any]:
        """What the scores are a function of: no time, no secret."""

    def stop(self) -> None:
        """Ask nothing more: scores that are waited for are missing."""

    def usage(self) -> dict[str, Any]:
        """What it took: requests, tokens, cost."""


def make_judge(settings: JudgeSettings) -> Judge:
    """The judge of `judge.kind`: an entry point of `pllava.judges`, a function from the settings to a Judge. "auto" is the endpoint where
    the environment names one, else the offline scorer. Raises PllavaError when the endpoint is named by halves."""
    from pllava.benchmarks.judge.endpoint import endpoint_from_environment

    kind = settings.kind
    if kind == "auto":
        kind = "endpoint" if endpoint_from_environment() else "offline"
    return plugins.load(GROUP, kind)(settings)
