"""What the paper reports (arXiv 2404.16994), shown beside the scores of a run: `columns("msvd_qa")`, `rows("msvd_qa")`.

Accuracies are percent, judge scores 0 to 5. The paper's judge was a hosted model with its own prompts. Scores of another judge
are roughly comparable, scores of the offline scorer are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZES = ("7B", "13B", "34B")
VIDEO_QA: dict[str, tuple[str, ...]] = {  # accuracy / score
    "msvd_qa": ("76.6 / 4.1", "75.7 / 4.1", "79.9 / 4.2"),
    "msrvtt_qa": ("62.0 / 3.5", "63.2 / 3.6", "68.7 / 3.8"),
    "activitynet_qa": ("56.3 / 3.5", "56.3 / 3.6", "60.9 / 3.7"),
    "tgif_qa": ("77.5 / 4.1", "77.8 / 4.2", "80.6 / 4.3"),
}
MVBENCH = ("46.6", "50.1", "58.1")
DIMENSIONS = {
    "Correctness of Information": ("3.21", "3.27", "3.60"),
    "Detail Orientation": ("2.86", "2.99", "3.20"),
    "Contextual Understanding": ("3.62", "3.66", "3.90"),
    "Temporal Understanding": ("2.33", "2.47", "2.67"),
    "Consistency": ("2.93", "3.09", "3.25"),
}
VCG_AVERAGE = ("3.12", "3.27", "3.48")  # weighted by samples


def columns(benchmark: str) -> list[str]:
    """Headings of the columns; empty when the paper has no numbers for the benchmark."""
    if benchmark == "mvbench":
        return ["MVBench, mean of tasks"]
    if benchmark in VIDEO_QA:
        return ["accuracy / score"]
    return [*DIMENSIONS, "mean by samples", "mean of dimensions"] if benchmark == "vcgbench" else []


def rows(benchmark: str) -> list[list[str]]:
    """One row for each model of the paper; empty when the paper has no numbers for the benchmark."""
    cells: list[tuple[str, ...]] = []
    if benchmark == "mvbench":
        cells = [MVBENCH]
    elif benchmark in VIDEO_QA:
        cells = [VIDEO_QA[benchmark]]
    elif benchmark == "vcgbench":
        plain = tuple(f"{sum(float(values[size]) for values in DIMENSIONS.values()) / len(DIMENSIONS):.2f}" for size in range(len(SIZES)))
        cells = [*DIMENSIONS.values(), VCG_AVERAGE, plain]
    return [[f"PLLaVA {name}, paper", *(column[size] for column in cells)] for size, name in enumerate(SIZES)] if cells else []


def own_row(benchmark: str, entry: Mapping[str, Any]) -> list[str]:
    """The same columns for one model of a metrics file. Without a judge, the score is a dash."""
    if benchmark == "mvbench":
        return [_percent(entry["average"])]
    if benchmark in VIDEO_QA:
        cell: Mapping[str, Any] = next(iter(entry["tasks"].values()), {})
        return [f"{_percent(cell)} / {_score(cell)}"]
    averages = [entry["average_over_questions"], entry["average_over_tasks"]]
    return [_score(cell) for cell in (*(entry["tasks"].get(name, {}) for name in DIMENSIONS), *averages)]


def _percent(cell: Mapping[str, Any]) -> str:
    return "-" if cell.get("value") is None else f"{100 * cell['value']:.1f}"


def _score(cell: Mapping[str, Any]) -> str:
    return "-" if cell.get("score") is None else f"{cell['score']:.2f}"
