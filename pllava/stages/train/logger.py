"""What a person and MLflow see of a training run: a progress bar, history.jsonl, and the curves of the run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pllava.stages.train.meters import Meters

if TYPE_CHECKING:
    from pllava.tracking.runs import Run


class Journal:
    """`history` holds what is the same in every run (step, loss, lr, grad_norm, val_loss); speed goes to the screen and MLflow only.

    active: False on all but the main process, where every method does nothing.
    """

    def __init__(self, run: Run, steps: int, active: bool) -> None:
        self.run, self.steps, self.active = run, steps, active
        self.history: list[dict[str, Any]] = []
        self.meters = Meters()
        console = Console(stderr=True)
        self.lines = active and not console.is_terminal  # a log file gets a line now and then instead of a bar
        # The time left comes before the numbers: on a narrow terminal the end of the line is what is cut.
        columns = (TextColumn("Training"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        status = TextColumn("{task.fields[status]}")
        self.bar = Progress(*columns, status, console=console, disable=not active or self.lines)
        self.task = self.bar.add_task("", total=steps, status="")

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    @contextmanager
    def step(self, step: int) -> Iterator[Meters]:
        """Around one optimiser step; waiting for data is timed inside, by `Meters.waiting`."""
        began = time.perf_counter()
        yield self.meters
        self.meters.seconds += time.perf_counter() - began
        self.meters.steps += 1
        self.bar.update(self.task, completed=step)

    def resume(self, history: list[dict[str, Any]], step: int) -> None:
        """Go on after a checkpoint."""
        self.history = list(history)
        for record in history:  # what its run has already is not logged twice
            self.run.log(**record)
        self.bar.update(self.task, completed=step)

    def record(self, step: int, **metrics: float) -> None:
        """Add what was measured at a step to the history, and show it."""
        if not self.active:
            return
        self.history.append({"step": step, **metrics})
        self.run.log(step, **metrics)
        self.run.log_metrics(self.meters.metrics() | self.meters.system_metrics(), step)
        status = self._status()
        self.bar.update(self.task, status=status)
        if self.lines:
            left = f"  {(self.steps - step) * self.meters.seconds_a_step:.0f} s left" if self.meters.steps else ""
            print(f"step {step}/{self.steps}  {status}{left}", file=sys.stderr, flush=True)

    def _status(self) -> str:
        parts = [f"{name} {self.latest(name):.4g}" for name in ("loss", "val_loss", "lr") if self.latest(name) is not None]
        return "  ".join([*parts, *self.meters.shown()])

    def latest(self, name: str) -> Any:
        return next((record[name] for record in reversed(self.history) if name in record), None)

    @property
    def validations(self) -> list[tuple[int, float]]:
        """(step, validation loss) so far."""
        return [(record["step"], record["val_loss"]) for record in self.history if "val_loss" in record]

    @property
    def best_step(self) -> int | None:
        """Where the validation loss was lowest, the first of equals; None without validation."""
        return min(self.validations, key=lambda entry: entry[1])[0] if self.validations else None

    def history_text(self) -> str:
        """JSON lines: step, and what was measured there."""
        return "".join(json.dumps(record, sort_keys=True) + "\n" for record in self.history)
