"""Held-out clips to try: the first test clip of each task of the benchmark, which no training has seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.params import Benchmark, Params


@dataclass(frozen=True)
class Sample:
    """A clip of the benchmark with one of its questions."""

    media: Path
    task: str
    question: str
    answer: str  # the truth, from the annotation


def samples(params: Params, most: int = 8) -> list[Sample]:
    """One clip for each task, at most `most`, in the benchmark's order. No file is used twice.

    Raises PllavaError when the benchmark's data does not exist.
    """
    from pllava.benchmarks.benchmark import load_benchmark

    name, settings = _benchmark(params)
    chosen: dict[str, Sample] = {}
    seen: set[Path] = set()
    for item in load_benchmark(name, settings.source).samples(settings.root):
        if item.task in chosen or item.media in seen or not item.media.is_file():
            continue
        chosen[item.task] = Sample(item.media, item.task, item.question, item.answer)
        seen.add(item.media)
        if len(chosen) == most:
            break
    return list(chosen.values())


def first_sample(params: Params) -> Sample:
    """The clip of the trial question of a deployment. Raises PllavaError when there is none."""
    clips = samples(params, most=1)
    if not clips:
        raise PllavaError(
            f"{_benchmark(params)[1].root} names no video that is there, so a deployment could not be tried. Make the data: pllava render"
        )
    return clips[0]


def _benchmark(params: Params) -> tuple[str, Benchmark]:
    """Name and settings of MVBench, or of the first configured benchmark when MVBench is not configured."""
    benchmarks = params.evaluate.benchmarks
    name = "mvbench" if "mvbench" in benchmarks else next(iter(benchmarks))
    return name, benchmarks[name]
