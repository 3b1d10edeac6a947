"""Which failures are retried.

A task is retried when the cause of its failure may pass by itself (a network, a judge, a server that starts) and its work may be repeated.
Training is never retried: the machine that killed it would kill it again. A person who starts it again resumes it.
"""

import logging
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
    """Does the message of a failed state name a cause that may pass? Prefect calls this after a failure."""
    return bool(PASSES.search(state.message or ""))


def options(stage: str) -> dict[str, Any]:
    """Prefect's retry options for the task of a stage."""
    if stage.split("@")[0] in NEVER:
        return {"retries": 0}
    return {"retries": len(DELAYS), "retry_delay_seconds": DELAYS, "retry_condition_fn": may_pass}


def _without_empty_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs a failure that is no exception with a traceback, which then reads "NoneType: None"."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


logging.getLogger("prefect.task_runs").addFilter(_without_empty_traceback)
