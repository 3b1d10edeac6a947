"""One DVC stage as one Prefect task. Whether it has to run is DVC's decision alone."""

import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows import links
from pllava.core.command import stream

UNCHANGED = re.compile(r"Stage '.+' didn't change, skipping")
RESTORED = re.compile(r"Stage '.+' is cached - skipping run, checking out outputs")
# Lines of advice from DVC, which are of no use in the flow's log.
ADVICE = re.compile(
    r"To track the changes|To enable auto staging|\s*git add |\s*dvc config core.autostage|Use `dvc push`|Data and pipelines are up"
)
LAST_LINES = 15


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE)  # DVC decides what is out of date
def run_stage(stage: str, root: Path, flow_run_id: str = "", base: Mapping[str, str] = os.environ) -> State[Any]:
    """`dvc repro` of this one stage: Completed when it ran, Cached when DVC found it up to date or had its outputs, Failed otherwise.

    base: environment variables; `environment` adds its own to them.
    """
    logger = get_run_logger()
    outcome = "ran"

    def say(line: str) -> None:
        nonlocal outcome
        if UNCHANGED.search(line):
            outcome = "unchanged"
        elif RESTORED.search(line):
            outcome = "restored"
        if not ADVICE.match(line):
            logger.info(line)

    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    code, last = stream(command, root, environment(flow_run_id, base), say)
    if code < 0:
        return Failed(message=f"stage {stage} was ended ({signal.Signals(-code).name})")
    if code:
        shown = "\n".join(last[-LAST_LINES:])
        return Failed(message=f"stage {stage} failed (dvc exit code {code}). Its last lines:\n{shown}")
    if outcome == "ran":
        return Completed(message=f"stage {stage} ran", data=outcome)
    return Completed(name="Cached", message=f"stage {stage}: {outcome}", data=outcome)


def environment(flow_run_id: str, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a stage: base, this Python's programs first on PATH, and the flow run's id and links, for MLflow."""
    return {
        **base,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", "")]),
        "PLLAVA_FLOW_RUN_ID": flow_run_id,
        **links.environment(flow_run_id),
        "PYTHONUNBUFFERED": "1",
    }
