"""What is tried again, and what never is.

Only what failed for a reason that passes (a network, a judge, a server that starts), and only work that may be repeated. Training is not:
started again by a person it resumes where it was, and a machine that kills it would kill it again.
"""

import re
from typing import Any

DELAYS = [10.0, 60.0]  # seconds before the second and the third try
NEVER = ("train",)
PASSES = re.compile(
    r"judgements failed|timed out|connection (was )?(refused|reset|aborted|error)|does not answer|temporary failure in name resolution"
    r"|too many requests|service unavailable|network is unreachable|max retries exceeded",
    re.IGNORECASE,
)


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Prefect asks after a failure: did its message name something that passes?"""
    return bool(PASSES.search(state.message or ""))


def options(stage: str) -> dict[str, Any]:
    """Retry options of a stage's task."""
    if stage.split("@")[0] in NEVER:
        return {"retries": 0}
    return {"retries": len(DELAYS), "retry_delay_seconds": DELAYS, "retry_condition_fn": may_pass}
