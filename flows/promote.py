"""The flow that makes a version of the model the champion, and serves it."""

import os
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, Failed
from pydantic import Field

from flows import ROOT, decisions, form
from flows.failure import tell
from flows.server import served
from flows.stages import first_failure

Force = Annotated[bool, form.titled("Even when the gate says no")]
Reason = Annotated[str | None, Field(max_length=500), form.titled("Reason")]


@served
@flow(name="promote", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def promote(version: form.Version = None, force: Force = False, reason: Reason = None, deploy: form.Deploy = True) -> Any:
    """Gate a version against the champion of today, promote it, serve it. When it does not serve, the champion is what it was.

    Args:
        version: left empty: the candidate, which was registered last
        force: promote it without a passed gate; that is recorded with the version
        reason: why it is forced
        deploy: start or restart the demo on it
    """
    os.chdir(ROOT)
    if force and not (reason or "").strip():
        return Failed(message="reason: a forced promotion is recorded with why; say it")
    steps = [] if force else [decisions.gate.submit(version)]
    champion = decisions.after(decisions.promote, steps[0]) if steps else decisions.promote.submit(version, force, reason)
    steps.append(champion)
    if deploy:
        steps.append(decisions.deploy.submit(wait_for=[champion]))
    failure = first_failure(steps)
    return Failed(message=failure) if failure else Completed(message=str(champion.result()))
