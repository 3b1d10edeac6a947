"""Report a run that failed, crashed or was cancelled: POST a message to PLLAVA_FAILURE_WEBHOOK when it is set, and log one line."""

import json
import logging
import os
import urllib.request
from contextlib import suppress
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.settings import PREFECT_UI_URL

WEBHOOK = "PLLAVA_FAILURE_WEBHOOK"
SECONDS = 10.0  # until the webhook must have answered


def tell(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """POST `{"flow", "run", "state", "message", "url"}` as JSON, and log why. Never raises: a webhook that does not answer is logged.

    A run that crashed or was cancelled has no Prefect context any more: its logger is made from its id.
    """
    problem = ""
    try:
        if address := os.environ.get(WEBHOOK):
            _post(address, flow, run, state)
    except Exception as error:  # the address may hold a secret, and some errors quote it
        reason = getattr(error, "reason", error)
        problem = f"{WEBHOOK} was not told: {getattr(error, 'code', None) or getattr(reason, 'strerror', None) or type(reason).__name__}"
    with suppress(Exception):
        log = _log(flow, run)
        log.error("%s %s: %s", run.name, (state.name or "").lower(), state.message or "no message")
        if problem:
            log.warning(problem)


def _post(address: str, flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{run.id}" if PREFECT_UI_URL.value() else ""
    facts = {"flow": flow.name, "run": run.name, "state": state.name, "message": state.message, "url": page}
    request = urllib.request.Request(address, json.dumps(facts).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=SECONDS).close()


def _log(flow: Flow[..., Any], run: FlowRun) -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return flow_run_logger(run, flow)
    except Exception:
        return logging.getLogger(__name__)
