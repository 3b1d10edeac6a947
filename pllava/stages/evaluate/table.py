"""The numbers of a metrics file as a table for a terminal, in percent."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pllava.artifacts.metrics import score_text


def show(metrics: dict[str, Any], console: Console) -> None:
    """Print a table of tasks x models. metrics: the content of a metrics file."""
    models, judge = list(metrics["models"]), metrics["provenance"]["judge"]
    title = f"{metrics['benchmark']}: {judge['name'] if judge else 'accuracy'}, in %, 95 % interval"
    table = Table("task", *models, "chance", "n", title=title, title_justify="left", box=SIMPLE_HEAD)  # fits 80 columns
    tasks = metrics["models"][models[0]]["tasks"] if models else {}
    for task, entry in tasks.items():
        cells = [metrics["models"][model]["tasks"][task] for model in models]
        table.add_row(task, *map(score_text, cells), f"{100 * entry['chance']:.0f}" if entry["chance"] else "", str(entry["n"]))
    table.add_row("average", *(score_text(metrics["models"][model]["average"]) for model in models), style="bold")
    console.print(table)
    if unreadable := metrics["provenance"]["unreadable"]:
        console.print(
            f"{len(unreadable)} unreadable, counted as wrong: {', '.join(unreadable[:10])}{' ...' if len(unreadable) > 10 else ''}"
        )
