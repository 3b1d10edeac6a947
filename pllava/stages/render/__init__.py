"""Rendered clips of moving shapes with known truth: the built-in corpus."""

from pllava.stages.render.corpus import render

__all__ = ["render"]
