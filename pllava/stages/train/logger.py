"""The log of a training run: a progress bar on the screen, history.jsonl, and the curves in MLflow."""

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


class TrainLogger:
    """`history` holds the values that are equal in every run: step, loss, lr, grad_norm, val_loss. Speed goes to the screen and MLflow.

    active: True on the main process. On the others nothing is shown or recorded.
    """

    def __init__(self, run: Run, steps: int, active: bool) -> None:
        self.run, self.steps, self.active = run, steps, active
        self.history: list[dict[str, Any]] = []
        self.meters = Meters()
        console = Console(stderr=True)
        self.lines = active and not console.is_terminal  # a log file gets a line at each record instead of a bar
        # The remaining time stands before the numbers, because a narrow terminal cuts the end of the line.
        columns = (TextColumn("Training"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        status = TextColumn("{task.fields[status]}")
        self.bar = Progress(*columns, status, console=console, disable=not active or self.lines)
        self.task = self.bar.add_task("", total=steps, status="")

    def __enter__(self) -> TrainLogger:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    @contextmanager
    def step(self, step: int) -> Iterator[Meters]:
        """Time one optimiser step. The time it includes waiting for data is counted by `Meters.waiting`."""
        began = time.perf_counter()
        yield self.meters
        self.meters.seconds += time.perf_counter() - began
        self.meters.steps += 1
        self.bar.update(self.task, completed=step)

    def resume(self, history: list[dict[str, Any]], step: int) -> None:
        """Continue with the history of a checkpoint, after its step."""
        self.history = list(history)
        for record in history:  # `log` skips records that the MLflow run already has
            self.run.log(**record)
        self.bar.update(self.task, completed=step)

    def record(self, step: int, **metrics: float) -> None:
        """Add the metrics of a step to the history, and show them."""
        if not self.active:
            return
        self.history.append({"step": step, **metrics})
        self.run.log(step, **metrics)
        self.run.log_metrics(self.meters.metrics() | self.meters.system_metrics(), step)
        status = self._status()
        self.bar.update(self.task, status=status)
        if self.lines:
            remaining = f"  {(self.steps - step) * self.meters.seconds_a_step:.0f} s left" if self.meters.steps else ""
            print(f"step {step}/{self.steps}  {status}{remaining}", file=sys.stderr, flush=True)

    def _status(self) -> str:
        parts = [f"{name} {self.latest(name):.4g}" for name in ("loss", "val_loss", "lr") if self.latest(name) is not None]
        return "  ".join([*parts, *self.meters.shown()])

    def latest(self, name: str) -> Any:
        """The newest value of a metric; None when it was never recorded."""
        return next((record[name] for record in reversed(self.history) if name in record), None)

    @property
    def validations(self) -> list[tuple[int, float]]:
        """(step, validation loss) so far."""
        return [(record["step"], record["val_loss"]) for record in self.history if "val_loss" in record]

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss, the first of equal ones; None without validation."""
        return min(self.validations, key=lambda entry: entry[1])[0] if self.validations else None

    def history_text(self) -> str:
        """The history as JSON lines, one record a line."""
        return "".join(json.dumps(record, sort_keys=True) + "\n" for record in self.history)
