"""Old path of `pllava.core.params`."""

from pllava.core.params import *  # noqa: F403
