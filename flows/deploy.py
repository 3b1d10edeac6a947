"""The flow that serves the champion. A promotion in MLflow's pages starts it (pllava/services/bridge.py), or a person does, by its form."""

import os
from typing import Any

from prefect import flow
from prefect.states import Completed, Failed

from flows import ROOT, decisions, form
from flows.failure import tell
from flows.server import served
from flows.stages import first_failure


@served
@flow(name="deploy", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def deploy(version: form.Version = None) -> Any:
    """The demo takes the champion without a gap. When it does not answer the trial question, the one before serves on, and this run fails.

    Args:
        version: what was promoted, for the record; what is served is the champion of the moment
    """
    os.chdir(ROOT)
    served = decisions.deploy.submit()
    if failure := first_failure([served]):
        return Failed(message=failure)
    now = served.result()
    other = f" (asked for was version {version}; the champion is another by now)" if version not in (None, now.version) else ""
    return Completed(message=f"{now.describe()}{other}")
