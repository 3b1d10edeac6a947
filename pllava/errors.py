"""Old path of `pllava.core.errors`."""

from pllava.core.errors import PllavaError as PllavaError
