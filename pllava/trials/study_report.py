"""The table and the chart of a study, with 95 % intervals over seeds and videos together. The table links to the answers in the gallery.

A resample draws seeds with replacement, and clips with replacement within each task. The value is the mean of the tasks' means, as in
MVBench's tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pllava.artifacts import gallery_links as links
from pllava.core.files import atomic_write_text, replacing, write_json
from pllava.registry.result_sources import SOURCES

if TYPE_CHECKING:
    from pllava.trials.specification import Study


BENCHMARK = "mvbench"


def results_of(folder: Path, point: tuple[str, int]) -> Path:
    """The folder of a point's answers; point: (label, seed)."""
    return folder / "points" / f"{point[0].replace('/', '_')}-seed{point[1]}"


def write_report(folder: Path, study: Study, points: dict[tuple[str, int], dict[str, Any]], resamples: int) -> None:
    """Write results.json, table.md, chart.png, and sources.json for the gallery into `folder`.

    points: {(label, seed): content of the point's file}, the same seeds for every label.
    """
    labels = [label for label in study.points if any(label == point[0] for point in points)]
    seeds = sorted({seed for _, seed in points})
    rows = {}
    for label in labels:
        answers = [points[label, seed]["answers"] for seed in seeds]
        value, low, high = interval(answers, resamples)
        rows[label] = {
            "value": value,
            "low": low,
            "high": high,
            "seeds": {str(seed): mean_of_tasks(of_seed) for seed, of_seed in zip(seeds, answers, strict=True)},
            "seconds": sum(points[label, seed]["seconds"] for seed in seeds),
        }
    write_json(folder / "results.json", {"title": study.title, "axis": study.axis, "questions": len(answers[0]), "points": rows})
    caption = f"Percent right on {len(answers[0])} held-out questions, 95 % interval over videos and {len(seeds)} seed(s)."
    lines = [f"# {study.title}", "", caption, ""]
    lines += [f"| {study.axis} | right | interval | each seed | seconds |", "|---|---|---|---|---|"]
    source_names = {
        (label, seed): f"{study.axis} {label}, seed {seed}"
        for label in labels
        for seed in seeds
        if (results_of(folder, (label, seed)) / BENCHMARK / "results.jsonl").is_file()
    }
    for label, row in rows.items():
        each = ", ".join(
            _linked(f"{100 * row['seeds'][str(seed)]:.1f}", source_names.get((label, seed)), len(source_names) > 1) for seed in seeds
        )
        interval_text = f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"
        lines.append(f"| {label} | {100 * row['value']:.1f} | {interval_text} | {each} | {row['seconds']:.0f} |")
    if source_names:
        lines += ["", links.how_to_open(folder)]
    write_json(folder / SOURCES, {name: str(results_of(folder, point).relative_to(folder)) for point, name in source_names.items()})
    atomic_write_text(folder / "table.md", "\n".join(lines) + "\n")
    _chart(folder / "chart.png", study, rows)


def _linked(text: str, source: str | None, several: bool) -> str:
    return text if source is None else f"[{text}]({links.questions(BENCHMARK, model=links.label(source, 'adapted', several))})"


def mean_of_tasks(answers: list[dict[str, Any]]) -> float:
    """The mean over tasks of the fraction of correct answers, 0 to 1."""
    tasks: dict[str, list[bool]] = {}
    for answer in answers:
        tasks.setdefault(answer["task"], []).append(answer["correct"])
    return float(np.mean([np.mean(right) for right in tasks.values()]))


def interval(seeds: list[list[dict[str, Any]]], resamples: int, seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high) of the mean of the tasks' means, 0 to 1, with a bootstrap interval of 95 %.

    seeds: the answers of each seed, to the same questions in the same order. The questions of a clip are drawn together.
    """
    rng = np.random.default_rng(seed)
    tasks: dict[str, dict[str, list[int]]] = {}
    for number, answer in enumerate(seeds[0]):
        tasks.setdefault(answer["task"], {}).setdefault(answer["clip"], []).append(number)
    right = np.array([[answer["correct"] for answer in answers] for answers in seeds], float)  # [S, N]
    drawn_seeds = rng.integers(len(seeds), size=(resamples, len(seeds)))
    means = []
    for clips in tasks.values():
        sums = np.stack([right[:, numbers].sum(1) for numbers in clips.values()], 1)  # [S, clips]
        sizes = np.array([len(numbers) for numbers in clips.values()], float)
        counts = rng.multinomial(len(clips), np.full(len(clips), 1 / len(clips)), size=resamples)  # [R, clips]
        share = counts @ sums.T / (counts @ sizes)[:, None]  # [R, S]
        means.append(np.take_along_axis(share, drawn_seeds, 1).mean(1))
    bounds: np.ndarray = np.quantile(np.mean(means, 0), [0.025, 0.975])
    return float(np.mean([mean_of_tasks(answers) for answers in seeds])), float(bounds[0]), float(bounds[1])


def _chart(path: Path, study: Study, rows: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    positions = range(len(rows))
    values = [100 * row["value"] for row in rows.values()]
    below = [value - 100 * row["low"] for value, row in zip(values, rows.values(), strict=True)]
    above = [100 * row["high"] - value for value, row in zip(values, rows.values(), strict=True)]
    axes.errorbar(positions, values, yerr=[below, above], fmt="o-", capsize=4)
    axes.set_xticks(list(positions), list(rows))
    axes.set(xlabel=study.axis, ylabel="% right", title=study.title, ylim=(0, 102))
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
