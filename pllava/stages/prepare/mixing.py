"""How often each row of a corpus is taken: `copies_of("textvr", size=39648, weight=0.5, max_rows=10000)(7)` -> 0, 1, ...

weight 0.5 takes half of the rows, 2 takes each row twice, 1.5 takes each row once and half of them once more. At most `max_rows` rows are
taken. A hash of corpus name and row number chooses the rows: memory is constant, and a higher cap or weight keeps every row that a lower
one took.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

BITS = 16  # leading bits of the hash that the first pass counts by: 65,536 counters


def rows_taken(size: int, weight: float, max_rows: int | None) -> int:
    """Number of rows that a corpus of `size` rows gives to the mixture: at least one, unless the corpus is empty."""
    taken = max(round(size * weight), min(size, 1))
    return taken if max_rows is None else min(taken, max_rows)


def copies_of(name: str, size: int, weight: float = 1.0, max_rows: int | None = None) -> Callable[[int], int]:
    """A function: row number -> number of times that the row is taken."""
    if not size:
        return lambda index: 0
    each, more = divmod(rows_taken(size, weight, max_rows), size)
    if not more:
        return lambda index: each
    limit = _nth_smallest(name, size, more)
    return lambda index: each + (_rank(name, index) <= limit)


def _rank(name: str, index: int) -> int:
    return int.from_bytes(blake2b(f"{name}:{index}".encode(), digest_size=8).digest(), "big")


def _nth_smallest(name: str, size: int, n: int) -> int:
    """The n-th smallest rank, in two passes: count ranks by their leading bits, then sort the one bucket that holds it."""
    shift = 64 - BITS
    counts = [0] * (1 << BITS)
    for index in range(size):
        counts[_rank(name, index) >> shift] += 1
    bucket = 0
    while n > counts[bucket]:
        n -= counts[bucket]
        bucket += 1
    inside = [rank for index in range(size) if (rank := _rank(name, index)) >> shift == bucket]
    return sorted(inside)[n - 1]
