"""Questions grouped by clip and packed into units of work: `units(samples, batch_size=16)`.

The units are a fixed function of the questions, so what was answered is known by number, whoever answered it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pllava.benchmarks.benchmark import Sample


@dataclass(frozen=True)
class Clip:
    """The part of a video that some questions are about."""

    media: Path
    start: float | None
    end: float | None
    samples: tuple[Sample, ...]


def units(samples: Sequence[Sample], batch_size: int) -> list[list[Clip]]:
    """Clips in order of first question, packed so that a unit has at most `batch_size` questions, or one clip."""
    questions: dict[tuple[Path, float | None, float | None], list[Sample]] = {}
    for sample in samples:
        questions.setdefault((sample.media, sample.start, sample.end), []).append(sample)
    packed: list[list[Clip]] = []
    room = 0
    for (media, start, end), asked in questions.items():
        needed = sum(len(questions_of(sample)) for sample in asked)
        if needed > room:
            packed.append([])
            room = batch_size
        packed[-1].append(Clip(media, start, end, tuple(asked)))
        room -= needed
    return packed


def questions_of(sample: Sample) -> tuple[Sample, ...]:
    """The sample, and again with its second question where it has one."""
    return (sample,) if sample.second_question is None else (sample, replace(sample, question=sample.second_question))
