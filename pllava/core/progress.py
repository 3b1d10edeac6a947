"""Progress of a long work with the remaining time: a bar in a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class WorkProgress:
    """A context manager. label: what is done, to `total` of `unit` ("videos"). done: how many of them an earlier run did."""

    def __init__(self, label: str, unit: str, total: int, console: Console, done: int = 0) -> None:
        self.label, self.unit, self.total, self.console = label, unit, total, console
        self.before = self.done = done
        self.failed = 0
        self._began = self._printed = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(f"{label}, {unit}", total=total, completed=done, note="")

    def __enter__(self) -> WorkProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, done: int, failed: int = 0) -> None:
        """Count more as done, `failed` of them without a result."""
        self.done += done
        self.failed += failed
        self._bar.update(self._task, completed=self.done, note=f"{self.failed} failed" if self.failed else "")
        self._line("")

    def within(self, path: str, position: float) -> None:
        """Show that the first `position` seconds of a long video are done."""
        clock = time.strftime("%H:%M:%S", time.gmtime(position))
        self._bar.update(self._task, note=f"{Path(path).name} {clock}")
        self._line(f", {Path(path).name} at {clock}")

    def _line(self, note: str) -> None:
        now = time.monotonic()
        if self.console.is_terminal or (now - self._printed < SECONDS_BETWEEN_LINES and self.done < self.total):
            return
        self._printed = now
        done_now = self.done - self.before
        remaining = f", {(now - self._began) / done_now * (self.total - self.done):.0f} s left" if done_now else ""
        failed = f", {self.failed} failed" if self.failed else ""
        text = f"{self.label}: {self.done} of {self.total} {self.unit}{note}{failed}, {now - self._began:.0f} s{remaining}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
