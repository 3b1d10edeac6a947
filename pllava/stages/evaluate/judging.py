"""`pllava judge`: score the stored answers of an evaluation again, for example with another judge. No model is loaded.

Scores go to FOLDER/<benchmark>/results.jsonl and FOLDER/<benchmark>.json; the evaluation's own outputs are not changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pllava.artifacts.answers import FILE, RESULTS, Answers, kept
from pllava.artifacts.metrics import METRICS, read_metrics
from pllava.benchmarks.benchmark import load_benchmark
from pllava.benchmarks.judge import make_judge
from pllava.core.errors import PllavaError
from pllava.stages.evaluate.record import write_record
from pllava.stages.evaluate.run import write_scored
from pllava.stages.evaluate.table import show

if TYPE_CHECKING:
    from pllava.core.params import Params

SCORE_KEYS = ("correct", "scores")


def judge(params: Params, benchmarks: Sequence[str], results: Path | None, output: Path, skip_unjudged: bool = False) -> list[Path]:
    """Score the answers of `benchmarks`; returns the paths of the metrics files. skip_unjudged: leave out benchmarks that need no judge.

    Raises PllavaError when there are no answers, when a benchmark needs no judge, or when too many judgements fail.
    """
    if results is not None and len(benchmarks) != 1:
        raise PllavaError(f"--results is one benchmark's, found {len(benchmarks)}. Run: pllava judge BENCHMARK --results {results}")
    console = Console(stderr=True)
    written = []
    for name in benchmarks:
        benchmark = load_benchmark(name, params.evaluate.benchmarks[name].source)
        if not benchmark.judged:
            if skip_unjudged:
                continue
            raise PllavaError(f"{name} is scored without a judge. To score it again: pllava evaluate {name}")
        began = time.monotonic()
        answers, provenance = read_answers(name, results)
        scorer = make_judge(params.judge)
        console.print(f"{name}: scored by the {scorer.name}")
        folder = output / name
        path = output / f"{name}.json"
        metrics = write_scored(answers, benchmark, scorer, params.judge.max_missing, provenance, folder, path)
        write_record(name, folder / FILE, path, scorer, 1, time.monotonic() - began, 0, output / "records")
        show(metrics, console)
        written.append(path)
    if not written:
        console.print(f"nothing to judge: {', '.join(benchmarks)} are scored without a judge; {kept()}", highlight=False)
    return written


def read_answers(name: str, results: Path | None) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """(rows without scores, read lazily; provenance of the answers, from the metrics file beside them).

    Raises PllavaError when the answers or the metrics file are missing.
    """
    file = results or RESULTS / name / FILE
    file = file / FILE if file.is_dir() else file
    beside = (METRICS / f"{name}.json", file.parent / "metrics.json", file.parent.parent / f"{name}.json")
    metrics = next((path for path in (beside if results is None else beside[1:]) if path.is_file()), None)
    if not file.is_file() or metrics is None:
        raise PllavaError(f"{file} and its metrics are not there; {kept()}. Evaluate first: pllava evaluate {name}")
    provenance = dict(read_metrics(metrics)["provenance"])
    for key in ("judge", "average_over", "unreadable"):
        provenance.pop(key, None)
    return _unscored(file), provenance


def _unscored(file: Path) -> Iterator[dict[str, Any]]:
    for row in Answers(file):
        yield {key: value for key, value in row.items() if key not in SCORE_KEYS}
