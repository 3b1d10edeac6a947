"""A judge's reply, read strictly: `parse("{'pred': 'yes', 'score': 4}", decides=True)` is (True, 4).

The whole reply must be one dictionary. What can't be read is an error, for which the caller asks again; it is never a 0.
"""

from __future__ import annotations

import ast

LONGEST = 2000  # characters; a verdict has some thirty
BEST = 5


class UnreadableReplyError(ValueError):
    """A reply that is no verdict."""


def parse(reply: str, decides: bool) -> tuple[bool, float]:
    """(right, score). With `decides` the reply says which ('pred': 'yes' or 'no'); without, a score above 3 is right.

    A score of True or False counts as 1 or 0, as in the published scripts. Raises UnreadableReplyError.
    """
    if len(reply) > LONGEST:
        raise UnreadableReplyError(f"{len(reply)} characters")
    try:
        found = ast.literal_eval(reply)  # a Python literal: no code is run
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UnreadableReplyError(f"no dictionary: {reply[:80]!r}") from None
    if not isinstance(found, dict):
        raise UnreadableReplyError(f"{type(found).__name__} in place of a dictionary: {reply[:80]!r}")
    score = found.get("score")
    if not isinstance(score, int | float) or not 0 <= score <= BEST:
        raise UnreadableReplyError(f"score {score!r} is no number from 0 to {BEST}")
    if not decides:
        return score > 3, score
    if found.get("pred") not in ("yes", "no"):
        raise UnreadableReplyError(f"pred {found.get('pred')!r} is neither 'yes' nor 'no'")
    return found["pred"] == "yes", score
