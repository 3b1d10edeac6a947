"""The record of one evaluation run: when, by which commit, on what, at which cost. `outputs/evaluation_runs/<benchmark>.json`.

It changes with every run, so it is no DVC output and not in git; MLflow keeps a copy with the model. It names results and metrics by
their sha256, and they name the adapter, base, data, template and code by theirs: the chain from a number to all that made it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.files import write_json
from pllava.core.hashing import sha256_file

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge

RECORDS = Path("outputs/evaluation_runs")


def write_record(
    benchmark: str,
    results: Path,
    metrics: Path,
    judge: Judge | None,
    processes: int,
    seconds: float,
    questions: int,
    folder: Path = RECORDS,
) -> Path:
    """`seconds`: of this run only; a resumed one took longer in all. `questions`: answered by this run."""
    from pllava.tracking.provenance import code_tags
    from pllava.tracking.store import project_root

    found: dict[str, Any] = {
        "benchmark": benchmark,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "results_sha256": sha256_file(results),
        "metrics_sha256": sha256_file(metrics),
        "code": code_tags(project_root()),
        "processes": processes,
        "seconds": round(seconds, 1),
        "questions_answered": questions,
        "judge": judge.provenance() | judge.usage() if judge else None,
    }
    path = folder / f"{benchmark}.json"
    write_json(path, found)
    return path
