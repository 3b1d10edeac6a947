"""A line on stderr every few seconds, in a terminal and in a flow's log alike: `Progress().say("train kitchen", 4096, 39648, 1200)`."""

from __future__ import annotations

import sys
import time

SECONDS = 10.0


class Progress:
    def __init__(self) -> None:
        self.began = self.printed = time.monotonic()

    def say(self, label: str, rows: int, size: int, decoded: int) -> None:
        """Print a line, unless one was printed in the last SECONDS. rows: done, of `size`. decoded: files decoded in this run."""
        if time.monotonic() - self.printed >= SECONDS:
            self.printed = time.monotonic()
            print(f"{label}: {rows:,} of {size:,} row(s), {decoded:,} file(s) decoded, {self.printed - self.began:.0f} s", file=sys.stderr)
