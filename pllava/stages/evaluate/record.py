"""The record of one evaluation run: its time, commit, duration and judge. File: `outputs/evaluation_runs/<benchmark>.json`.

The record changes with every run, so it is neither a DVC output nor in git; MLflow keeps a copy with the model. The record holds the
sha256 of results and metrics. The metrics hold the sha256 of adapter, base, data, template and code. So a score leads to its inputs.
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
    """Write the record; returns its path. `seconds`, `questions`: of this run only, without the runs that it resumed."""
    from pllava.tracking.provenance import code_tags
    from pllava.tracking.store import project_root

    record: dict[str, Any] = {
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
    write_json(path, record)
    return path
