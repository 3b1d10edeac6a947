"""What happens when a run fails, beside its red state: a line in its log, and a message to PLLAVA_FAILURE_WEBHOOK where that is set."""

import json
import os
import urllib.request
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.settings import PREFECT_UI_URL

WEBHOOK = "PLLAVA_FAILURE_WEBHOOK"
SECONDS = 10.0


def tell(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Log why, and POST `{"flow", "run", "state", "message", "url"}` as JSON. A webhook that does not answer is logged, no more."""
    logger = get_run_logger()
    logger.error("%s %s: %s", run.name, state.name.lower(), state.message or "no message")
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{run.id}" if PREFECT_UI_URL.value() else ""
    facts = {"flow": flow.name, "run": run.name, "state": state.name, "message": state.message, "url": page}
    try:
        request = urllib.request.Request(address, json.dumps(facts).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except (OSError, ValueError) as error:  # the address may hold a secret: it is not logged
        logger.warning("%s was not told: %s", WEBHOOK, error)
