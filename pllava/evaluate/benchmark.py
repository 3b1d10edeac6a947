"""Old path of `pllava.benchmarks.benchmark`."""

from pllava.benchmarks.benchmark import *  # noqa: F403
