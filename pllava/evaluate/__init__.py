"""Evaluation: `pllava evaluate mvbench`, `pllava report`. Torch and matplotlib are imported when a stage runs."""

from pllava.evaluate.report import report
from pllava.evaluate.runner import evaluate

__all__ = ["evaluate", "report"]
