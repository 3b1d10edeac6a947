"""Evaluation: `pllava evaluate mvbench`, `pllava report`. Torch and matplotlib are imported when a stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pllava.params import Params

__all__ = ["evaluate", "report"]


def evaluate(params: Params, benchmark: str = "mvbench") -> Path:
    """Answer and score a benchmark; see `pllava.evaluate.runner.evaluate`."""
    from pllava.evaluate import runner

    return runner.evaluate(params, benchmark)


def report(params: Params) -> Path:
    """Write tables and plots; see `pllava.evaluate.reporting.report`."""
    from pllava.evaluate import reporting

    return reporting.report(params)
