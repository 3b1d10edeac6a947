"""What `make run` prints at its end: the numbers, the champion, a question it answered, and where to look."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from flows.stages import measured
from pllava.artifacts.metrics import score_text
from pllava.registry.card import MODELS, title


def print_summary(root: Path, outcome: list[Any], console: Console | None = None) -> None:
    """Print the summary. outcome: the flow's result, [registered version, passed version, Champion, and a Deployment when one was made]."""
    console = console or Console(emoji=False)
    for benchmark, metrics in measured(root).items():
        console.print(metrics_table(benchmark, metrics))
    _, _, champion, *served = outcome
    console.print(f"[bold]{escape(str(champion))}[/bold]")
    for deployment in served:
        console.print("Asked about a held-out clip:")
        console.print(f"  {escape(_relative(deployment.clip, root))}", soft_wrap=True)  # a path that can be copied
        console.print(f"  {escape(deployment.question)}\n  [bold]-> {escape(deployment.answer)}[/bold]", soft_wrap=True)
        console.print(f"Demo: {deployment.url} (make down stops it)")
    console.print("Look closer:")
    console.print("  make up        flows, runs, curves and model versions in the browser")
    console.print("  outputs/report/report.md")


def metrics_table(benchmark: str, metrics: dict[str, Any]) -> Table:
    """Tasks x models, percent with 95 % intervals."""
    models = metrics["models"]
    heading = f"{title(benchmark, metrics)}: percent {'' if metrics.get('provenance', {}).get('judge') else 'right '}(95 % interval)"
    table = Table(
        title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False
    )  # fits 80 columns, whatever the numbers
    columns = [(key, name) for key, name in MODELS if key in models]
    table.add_column("task")
    for _, name in columns:
        table.add_column(name, justify="right")
    table.add_column("chance", justify="right")
    for task, score in models["adapted"]["tasks"].items():
        chance = f"{100 * score['chance']:.0f}" if "chance" in score else ""
        table.add_row(task, *(score_text(models[key]["tasks"].get(task)) for key, _ in columns), chance)
    table.add_section()
    table.add_row("average", *(score_text(models[key]["average"]) for key, _ in columns), "", style="bold")
    return table


def print_failure(message: str) -> None:
    """Print to stderr why the pipeline stopped."""
    Console(stderr=True, emoji=False).print(Panel(escape(message), title="the pipeline stopped", border_style="red", title_align="left"))


def _relative(path: str, root: Path) -> str:
    """The path relative to root, or unchanged when it is outside root."""
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path
