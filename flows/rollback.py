"""The flow that makes the previous champion the champion again, and serves it."""

import os
from typing import Any

from prefect import flow
from prefect.states import Completed, Failed

from flows import ROOT, decisions, form
from flows.failure import tell
from flows.server import served
from flows.stages import first_failure


@served
@flow(name="rollback", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def rollback(deploy: form.Deploy = True) -> Any:
    """Swap champion and previous. A second rollback swaps them back.

    Args:
        deploy: start or restart the demo on it
    """
    os.chdir(ROOT)
    champion = decisions.rollback.submit()
    steps = [champion]
    if deploy:
        steps.append(decisions.deploy.submit(wait_for=[champion]))
    failure = first_failure(steps)
    return Failed(message=failure) if failure else Completed(message=str(champion.result()))
