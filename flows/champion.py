"""The flows that move the alias `champion` and serve it: promote a version, roll back, deploy.

A promotion in MLflow's pages starts `deploy` (pllava/services/bridge.py), or a person does, by its form.
"""

import os
from typing import Annotated, Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from pydantic import Field

from flows import ROOT, decisions, form
from flows.failure import tell
from flows.server import served as on_our_server
from flows.stages import first_failure

Force = Annotated[bool, form.titled("Even when the gate says no")]
Reason = Annotated[str | None, Field(max_length=500), form.titled("Reason")]


@on_our_server
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
    return _serve([*steps, champion], deploy)


@on_our_server
@flow(name="rollback", on_failure=[tell], on_crashed=[tell], on_cancellation=[tell])
def rollback(deploy: form.Deploy = True) -> Any:
    """Swap champion and previous. A second rollback swaps them back.

    Args:
        deploy: start or restart the demo on it
    """
    os.chdir(ROOT)
    return _serve([decisions.rollback.submit()], deploy)


@on_our_server
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


def _serve(steps: list[PrefectFuture[Any]], deploy: bool) -> Any:
    """The final state of a flow whose last step is the new champion, served when `deploy` says so."""
    champion = steps[-1]
    if failure := first_failure([*steps, *([decisions.deploy.submit(wait_for=[champion])] if deploy else [])]):
        return Failed(message=failure)
    return Completed(message=str(champion.result()))
