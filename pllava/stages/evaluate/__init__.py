"""Evaluation: `pllava evaluate mvbench`, `pllava report`. Torch and matplotlib are imported when a stage runs."""

from pllava.stages.evaluate.run import evaluate
from pllava.stages.report.run import report

__all__ = ["evaluate", "report"]
