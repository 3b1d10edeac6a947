"""What a person and MLflow see of a training run: a progress bar, history.jsonl, and the curves of the run."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pllava.registry.tracking import Run


class Journal:
    """`history` holds what is the same in every run (step, loss, lr, grad_norm, val_loss); speed goes to the screen and MLflow only.

    active: False on all but the main process, where every method does nothing.
    """

    def __init__(self, run: Run, steps: int, batch_size: int, active: bool) -> None:
        self.run, self.steps, self.batch_size, self.active = run, steps, batch_size, active
        self.history: list[dict[str, Any]] = []
        console = Console(stderr=True)
        self.lines = active and not console.is_terminal  # a log file gets a line now and then instead of a bar
        columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not active or self.lines)
        self.task = self.bar.add_task("", total=steps, status="")
        self.seconds = 0.0  # spent in steps, without validation
        self._counted = 0
        self._step_started = 0.0

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def step_begins(self) -> None:
        self._step_started = time.perf_counter()

    def step_ends(self, step: int) -> None:
        self.seconds += time.perf_counter() - self._step_started
        self._counted += 1
        self.bar.update(self.task, completed=step)

    @property
    def samples_per_second(self) -> float:
        return self._counted * self.batch_size / self.seconds if self.seconds else 0.0

    def record(self, step: int, **metrics: float) -> None:
        """Add what was measured at a step to the history, and show it."""
        if not self.active:
            return
        self.history.append({"step": step, **metrics})
        self.run.log(step, **metrics)
        status = "  ".join(f"{name} {self._latest(name):.4g}" for name in ("loss", "val_loss", "lr") if self._latest(name) is not None)
        if self._counted:
            self.run.log(step, samples_per_second=self.samples_per_second)
            status += f"  {self.samples_per_second:.1f} samples/s"
        self.bar.update(self.task, status=status)
        if self.lines:
            left = f"  {(self.steps - step) * self.seconds / self._counted:.0f} s left" if self._counted else ""
            print(f"step {step}/{self.steps}  {status}{left}", file=sys.stderr, flush=True)

    def _latest(self, name: str) -> Any:
        return next((record[name] for record in reversed(self.history) if name in record), None)

    def history_text(self) -> str:
        """JSON lines: step, and what was measured there."""
        return "".join(json.dumps(record, sort_keys=True) + "\n" for record in self.history)
