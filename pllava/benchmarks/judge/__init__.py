"""A judge scores open answers: a language model behind an OpenAI-compatible endpoint, or offline a comparison of words.

    judge = make_judge(params.judge)
    judge.score(rubric.ANSWER, question="What does he cook?", answer="noodles", prediction="He cooks noodles.")

The environment (PLLAVA_JUDGE_BASE_URL and PLLAVA_JUDGE_MODEL) decides which of the two is used. Every result names its judge.
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
    name: str  # shown in tables
    measure: str  # meaning of `Score.value`, in words
    concurrency: int  # number of `score` calls that may run at once

    def score(self, rubric: Rubric, **fields: str) -> Score:
        """Score one answer. `fields`: question, answer and prediction, as the rubric needs. A failed judgement has the value None."""

    def nothing(self) -> Score:
        """The score of a missing answer: wrong, and 0 on this judge's scale."""

    def provenance(self) -> dict[str, Any]:
        """All that determines the scores, as JSON: neither times nor secrets."""

    def stop(self) -> None:
        """Send no further requests. Scores in progress become missing."""

    def usage(self) -> dict[str, Any]:
        """Requests, tokens and cost so far."""


def make_judge(settings: JudgeSettings) -> Judge:
    """The judge of `judge.kind`, an entry point of `pllava.judges`: a function from the settings to a Judge.

    "auto" is the endpoint if the environment names one, else the offline scorer. Raises PllavaError if it names only the URL or the model.
    """
    from pllava.benchmarks.judge.endpoint import endpoint_from_environment

    kind = settings.kind
    if kind == "auto":
        kind = "endpoint" if endpoint_from_environment() else "offline"
    return plugins.load(GROUP, kind)(settings)
