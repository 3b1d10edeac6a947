"""A scorer without a language model. It compares words, not meaning, so its scores can't be compared with a judge's.

normalised exact match: equal in lower case, without articles, punctuation and repeated spaces (as in SQuAD).
token F1: harmonic mean of precision and recall of the prediction's words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from pllava.benchmarks.benchmark import Score
from pllava.benchmarks.judge.rubric import Rubric

if TYPE_CHECKING:
    from pllava.core.params import Judge as JudgeSettings

ARTICLES = ("a", "an", "the")


class OfflineJudge:
    name = "offline scorer (normalised exact match, token F1)"
    measure = "offline: normalised exact match (VideoQA), token F1 (VCGBench, captions)"
    concurrency = 1

    def score(self, rubric: Rubric, **fields: str) -> Score:
        """`value` is the exact match for the rubric `answer`, else F1. With two predictions both must match, and F1 is their mean."""
        answer = fields["answer"]
        predictions = [fields[name] for name in ("prediction", "second_prediction") if name in fields]
        f1 = sum(token_f1(prediction, answer) for prediction in predictions) / len(predictions)
        right = all(exact_match(prediction, answer) for prediction in predictions)
        return Score(float(right) if rubric.name == "answer" else f1, correct=right, f1=round(f1, 6))

    def nothing(self) -> Score:
        return Score(0.0, correct=False, f1=0.0)

    def provenance(self) -> dict[str, Any]:
        return {"kind": "offline", "name": self.name, "measure": self.measure}

    def stop(self) -> None:
        pass

    def usage(self) -> dict[str, Any]:
        return {"requests": 0, "cached": 0, "tokens_read": 0, "tokens_written": 0, "cost": 0.0}


def make(settings: JudgeSettings) -> OfflineJudge:
    """The judge `offline` of pllava.judges; it needs no settings."""
    return OfflineJudge()


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation and repeated spaces: `"The  Noodles!"` -> `"noodles"`."""
    kept = "".join(" " if unicodedata.category(letter)[0] in "PS" else letter for letter in unicodedata.normalize("NFKC", text).lower())
    return " ".join(word for word in re.split(r"\s+", kept.strip()) if word and word not in ARTICLES)


def exact_match(prediction: str, answer: str) -> bool:
    """Whether the normalised texts are equal."""
    return normalise(prediction) == normalise(answer)


def token_f1(prediction: str, answer: str) -> float:
    """Token F1 of two texts, 0..1; 1 if neither has words."""
    predicted, expected = normalise(prediction).split(), normalise(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected))
