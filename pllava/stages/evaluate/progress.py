"""Progress of an evaluation with the remaining time: a bar in a terminal, else a line every SECONDS_BETWEEN_LINES."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10


def progress(sizes: Mapping[int, int], benchmark: str, console: Console) -> Iterator[int]:
    """Yield the unit numbers of `sizes` ({unit: number of questions}). A unit counts as done when the caller takes the next one."""
    total, done = sum(sizes.values()), 0
    began = last_line = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{benchmark}, questions", total=total)
        for number, size in sizes.items():
            yield number
            done += size
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and (now - last_line > SECONDS_BETWEEN_LINES or done == total):
                remaining = (now - began) / done * (total - done)
                console.print(f"{benchmark}: {done} of {total} questions, {now - began:.0f} s, {remaining:.0f} s left")
                last_line = now
