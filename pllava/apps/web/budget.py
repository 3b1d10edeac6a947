"""Bytes of the bodies that are being read. All bodies together are bounded: they are in memory or on disk before anything limits them."""

from __future__ import annotations

WAIT = 5  # seconds until a client that found no room asks again


class Budget:
    """One thread uses it, that of the event loop. limit, taken: bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0


class Body:
    """The part of the budget that one request holds."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.size = budget, 0

    def hold(self, size: int) -> bool:
        """Hold `size` bytes, if fewer are held. False when the bodies of others leave no room."""
        more = max(0, size - self.size)
        if self.budget.taken + more > self.budget.limit:
            return False
        self.budget.taken += more
        self.size += more
        return True

    def release(self) -> None:
        self.budget.taken -= self.size
        self.size = 0
