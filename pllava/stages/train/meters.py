"""Speed and memory of a training since its process began. They are shown and sent to MLflow, never written to history.jsonl."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Meters:
    """Counts and seconds since this process began."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0  # spent in steps, without validation and checkpoints
        self.waited = 0.0  # seconds of `seconds` that were spent waiting for data
        self.samples = 0
        self.tokens = 0  # without padding
        self.visual_tokens = 0
        self.replaced = 0  # clips that could not be read
        self._monitors: list[Any] | None = None

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and add the time waited for each to `waited`."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield batch

    def count(self, batch: Any, processes: int) -> None:
        """Add a micro-batch (pllava.stages.train.collator.Batch), counted once for each process: all have batches of the same size."""
        self.samples += batch.samples * processes
        self.tokens += batch.tokens * processes
        self.visual_tokens += batch.visual_tokens * processes

    @property
    def seconds_a_step(self) -> float:
        return self.seconds / self.steps if self.steps else 0.0

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the steps' time in which the step waited for data."""
        return self.waited / self.seconds if self.seconds else 0.0

    def shown(self) -> list[str]:
        """Speed in words, for the status line."""
        if not self.steps:
            return []
        shown = [f"{self.samples_per_second:.1f} samples/s", f"{self.visual_tokens / self.seconds:,.0f} visual tokens/s"]
        if self.wait_share >= 0.01:
            shown.append(f"waits for data {self.wait_share:.0%}")
        return [*shown, f"{self.replaced} bad clip(s) replaced"] if self.replaced else shown

    def metrics(self) -> dict[str, float]:
        """The metrics for MLflow; {} before the first step."""
        if not self.steps:
            return {}
        return {
            "samples_per_second": self.samples_per_second,
            "tokens_per_second": self.tokens / self.seconds,
            "visual_tokens_per_second": self.visual_tokens / self.seconds,
            "data_wait": self.wait_share,
            "seconds_per_step": self.seconds_a_step,
            "bad_clips": float(self.replaced),
            "peak_memory_mb": peak_memory() / 1e6,
        }

    def system_metrics(self) -> dict[str, float]:
        """MLflow's system metrics, under its names. They are sent like our own, so the offline buffer keeps them while MLflow is away."""
        if self._monitors is None:
            self._monitors = _monitors()
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return metrics


def _monitors() -> list[Any]:
    import torch
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    if torch.cuda.is_available():
        from mlflow.exceptions import MlflowException
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        try:
            monitors.append(GPUMonitor())
        except (MlflowException, ImportError, RuntimeError):  # needs nvidia-ml-py
            print("no GPU metrics: pip install nvidia-ml-py", file=sys.stderr)
    return monitors


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU's allocator, or without a GPU the largest resident set of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
