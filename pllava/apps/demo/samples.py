"""Held-out clips to try: the first test clip of each task of the benchmark, which no training has seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.params import Benchmark, Params


@dataclass(frozen=True)
class Sample:
    media: Path
    task: str
    question: str
    answer: str  # the truth, from the annotation


def samples(params: Params, most: int = 8) -> list[Sample]:
    """One clip a task, in the benchmark's order, each of them a file once. Raises PllavaError when the benchmark's data is not there."""
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
    """The clip a deployment is tried on. Raises PllavaError when there is none."""
    found = samples(params, most=1)
    if not found:
        raise PllavaError(
            f"{_benchmark(params)[1].root} names no video that is there, so a deployment could not be tried. Make the data: pllava render"
        )
    return found[0]


def _benchmark(params: Params) -> tuple[str, Benchmark]:
    """MVBench where it is configured, else the first benchmark that is."""
    benchmarks = params.evaluate.benchmarks
    name = "mvbench" if "mvbench" in benchmarks else next(iter(benchmarks))
    return name, benchmarks[name]
