"""How far an evaluation is, with the time left: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10


def progress(sizes: Mapping[int, int], benchmark: str, console: Console) -> Iterator[int]:
    """The keys of `sizes`; what a key stands for counts as done when the next one is asked for. sizes: questions of each unit."""
    total, done = sum(sizes.values()), 0
    began = said = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{benchmark}, questions", total=total)
        for number, size in sizes.items():
            yield number
            done += size
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and (now - said > SECONDS_BETWEEN_LINES or done == total):
                left = (now - began) / done * (total - done)
                console.print(f"{benchmark}: {done} of {total} questions, {now - began:.0f} s, {left:.0f} s left")
                said = now
