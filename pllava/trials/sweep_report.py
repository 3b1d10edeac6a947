"""The report of a sweep: a table whose scores link to their questions in the gallery, and a chart of accuracy against pooling shape and
against alpha, with 95 % intervals."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from pllava.artifacts import gallery_links as links

Row = dict[str, Any]  # {"key", "title", "settings", "alpha", "trained_alpha", "pooling_shape", "average": {"value", "low", "high"}, ...}


def best(rows: list[Row]) -> Row:
    """The row with the highest average. Among equals, the row with the fewest visual tokens, which costs least."""
    return min(rows, key=lambda row: (-row["average"]["value"], prod(row["pooling_shape"])))


def sources(rows: list[Row]) -> dict[str, str]:
    """{name in the gallery: folder of the row's results, relative to the sweep's folder}: the content of sources.json."""
    return {name: _folder(row) for name, row in zip(_names(rows), rows, strict=True)}


def table(rows: list[Row], benchmark: str, home: Path | None = None) -> str:
    """A Markdown table, best row first. home: the sweep's folder; scores whose results are in it become links into the gallery."""
    settings = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    heads = [*settings, "alpha", f"{benchmark}, % (95 %)", "n"]
    has_results = [bool(home and (home / _folder(row) / benchmark / "results.jsonl").is_file()) for row in rows]
    labels = [links.label(name, "adapted", several=sum(has_results) > 1) for name in _names(rows)]
    order = sorted(range(len(rows)), key=lambda number: -rows[number]["average"]["value"])
    first = rows.index(best(rows))
    linked = sum(has_results) > 1 and has_results[first]
    lines = ["| " + " | ".join([*heads, *(["beside the best"] if linked else [])]) + " |", "|" + "---|" * (len(heads) + linked)]
    for number in order:
        row, score = rows[number], rows[number]["average"]
        score_cell = f"{100 * score['value']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"
        cells = [str(row["settings"].get(name, "")) for name in settings]
        cells += [
            f"{row['alpha']:g}",
            f"[{score_cell}]({links.questions(benchmark, model=labels[number])})" if has_results[number] else score_cell,
            str(row["n"]),
        ]
        if linked:
            against = links.comparison(benchmark, labels[first], labels[number])
            cells.append(f"[compare]({against})" if has_results[number] and number != first else "")
        lines.append("| " + " | ".join(cells) + " |")
    if any(has_results):
        lines += ["", links.how_to_open(home)]
    return "\n".join(lines)


def _names(rows: list[Row]) -> list[str]:
    names = [f"{row['title']}, alpha {row['alpha']:g}" for row in rows]
    return [name if names.count(name) == 1 else f"{name} ({row['key']})" for name, row in zip(names, rows, strict=True)]


def _folder(row: Row) -> str:
    return f"{row['key']}/alpha-{row['alpha']:g}"


def chart(rows: list[Row], benchmark: str, path: Path) -> Path:
    """Write a PNG and return its path. Left: each pooling shape at its trained alpha. Right: each model against alpha."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (shape_axes, alpha_axes) = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    trained = [row for row in rows if row["alpha"] == row["trained_alpha"]] or rows
    shapes = sorted({tuple(row["pooling_shape"]) for row in trained}, key=lambda shape: (prod(shape), shape))
    others = list(dict.fromkeys(_without_shape(row) for row in trained))
    for number, other in enumerate(others):
        same = [row for row in trained if _without_shape(row) == other]
        positions = [shapes.index(tuple(row["pooling_shape"])) + 0.12 * (number - (len(others) - 1) / 2) for row in same]
        _errorbar(shape_axes, positions, same, other)
    shape_axes.set_xticks(range(len(shapes)), [f"{' x '.join(map(str, shape))}\n{prod(shape)} tokens" for shape in shapes])
    shape_axes.set_xlim(-0.5, len(shapes) - 0.5)
    shape_axes.set_xlabel("pooling shape (T x H x W)")
    shape_axes.set_ylabel(f"{benchmark}, % right")
    for title in dict.fromkeys(row["title"] for row in rows):
        same = sorted((row for row in rows if row["title"] == title), key=lambda row: row["alpha"])
        _errorbar(alpha_axes, [row["alpha"] for row in same], same, title, line="-")
    alpha_axes.set_xlabel("LoRA alpha at inference")
    for axes in (shape_axes, alpha_axes):
        axes.grid(alpha=0.3)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _without_shape(row: Row) -> str:
    others = [f"{name.rsplit('.', 1)[-1]} {value}" for name, value in row["settings"].items() if name != "model.pooling_shape"]
    return ", ".join(others) or "trained"


def _errorbar(axes: Any, positions: list[float], rows: list[Row], label: str, line: str = "none") -> None:
    values = [100 * row["average"]["value"] for row in rows]
    below = [max(0.0, value - 100 * row["average"]["low"]) for value, row in zip(values, rows, strict=True)]
    above = [max(0.0, 100 * row["average"]["high"] - value) for value, row in zip(values, rows, strict=True)]
    axes.errorbar(positions, values, [below, above], fmt="o", linestyle=line, capsize=3, label=label)
