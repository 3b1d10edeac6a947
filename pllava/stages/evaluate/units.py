"""Questions grouped by clip and packed into units of work: `units(samples, batch_size=16)`.

The same questions and batch size always give the same units, so a unit's number identifies its questions in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pllava.benchmarks.benchmark import Sample


@dataclass(frozen=True)
class Clip:
    """A part of a video (start and end in seconds; None: the whole video) and the questions about it."""

    media: Path
    start: float | None
    end: float | None
    samples: tuple[Sample, ...]


def units(samples: Sequence[Sample], batch_size: int) -> list[list[Clip]]:
    """Clips packed into units, in order of their first question. A unit has at most `batch_size` questions, or one larger clip."""
    questions: dict[tuple[Path, float | None, float | None], list[Sample]] = {}
    for sample in samples:
        questions.setdefault((sample.media, sample.start, sample.end), []).append(sample)
    packed: list[list[Clip]] = []
    room = 0
    for (media, start, end), clip_samples in questions.items():
        needed = sum(len(questions_of(sample)) for sample in clip_samples)
        if needed > room:
            packed.append([])
            room = batch_size
        packed[-1].append(Clip(media, start, end, tuple(clip_samples)))
        room -= needed
    return packed


def questions_of(sample: Sample) -> tuple[Sample, ...]:
    """The sample; if it has a second question, also a copy that asks the second question."""
    return (sample,) if sample.second_question is None else (sample, replace(sample, question=sample.second_question))
