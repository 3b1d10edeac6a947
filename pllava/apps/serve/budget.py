"""Bytes of the bodies that are being read. All bodies together are bounded, because a body is in memory before its request is queued."""

from __future__ import annotations

from pllava.apps.serve.errors import busy

WAIT = 5  # seconds until a client that found no room asks again


class Budget:
    """One thread uses it, that of the event loop. limit, taken: bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0


class Body:
    """The part of the budget that one request holds."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.size = budget, 0

    def hold(self, size: int) -> None:
        """Hold `size` bytes, if fewer are held. Raises ApiError 429 with Retry-After when the bodies of others leave no room."""
        more = max(0, size - self.size)
        if self.budget.taken + more > self.budget.limit:
            raise busy(f"the requests under way have {self.budget.taken:,} bytes; try again in {WAIT} s", WAIT, "bodies_full")
        self.budget.taken += more
        self.size += more

    def release(self) -> None:
        self.budget.taken -= self.size
        self.size = 0
