"""Old path of `pllava.benchmarks.mvbench`."""

from pllava.benchmarks.letter_match import score as score
from pllava.benchmarks.mvbench import *  # noqa: F403
