"""Rendered clips of moving shapes with known truth: the built-in corpus."""

from pllava.data.rendered.corpus import render

__all__ = ["render"]
