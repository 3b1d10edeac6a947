"""Links between a flow run and what it made: addresses of pages, tags of the flow run, lines in the MLflow run's description."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from flows import ROOT
from pllava.core.params import Params, load_params
from pllava.services.stack import HOST, recorded


def of_run(flow_run_id: str) -> dict[str, str]:
    """{label: Markdown} for the description of an MLflow run that a flow run makes."""
    page, stack = PREFECT_UI_URL.value(), recorded(ROOT)
    if not flow_run_id:
        return {}
    # The server of `make run` alone ends with the run, so its page is no link.
    links = {"Prefect run": f"[{flow_run_id}]({page}/runs/flow-run/{flow_run_id})" if page and stack else f"`{flow_run_id}`"}
    return links | ({"Demo": f"<http://{HOST}:{stack.demo_port}>, while `make up` runs"} if stack else {})


def environment(flow_run_id: str) -> dict[str, str]:
    """The variable that brings `of_run` to the training's process."""
    from pllava.tracking.names import LINKS

    return {LINKS: json.dumps(of_run(flow_run_id))}


def tag(*tags: str) -> None:
    """Add tags to the flow run of the caller. A server that does not answer is logged: tags never stop the work."""
    run_id = flow_run.get_id()
    if not run_id:
        return
    try:
        with get_client(sync_client=True) as client:
            known = client.read_flow_run(run_id).tags
            client.update_flow_run(run_id, tags=[*known, *(one for one in tags if one not in known)])
    except Exception as error:
        get_run_logger().warning("the flow run was not tagged with %s: %s", ", ".join(tags), error)


def run_line(adapter_sha256: str | None, links: Mapping[str, str] | None = None) -> str:
    """Markdown that leads to the MLflow run of an adapter; "" without such a run. links: lines for the run's description."""
    from pllava.tracking.names import add_links
    from pllava.tracking.runs import run_of
    from pllava.tracking.store import client

    if not adapter_sha256:
        return ""
    with suppress(Exception):  # MLflow is away: the artifact is published all the same
        connection = client()
        run = run_of(connection, load_params(ROOT / "params.yaml"), adapter_sha256)
        if run is None:
            return ""
        if links:
            add_links(connection, run.info.run_id, links)
        where = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        return f"MLflow run: {_page(run.info.run_name or run.info.run_id, where)}"
    return ""


def parent_line(params: Params, run_id: str) -> str:
    """Markdown that leads to the MLflow run of a sweep."""
    from pllava.tracking.store import client, experiment_id

    return f"MLflow run: {_page(run_id, f'#/experiments/{experiment_id(client(), params.registry.experiment)}/runs/{run_id}')}"


def version_line(number: Any) -> str:
    """Markdown that leads to a version of the model in MLflow."""
    name = load_params(ROOT / "params.yaml").registry.model_name
    return f"Model version: {_page(f'{name} {number}', f'#/models/{name}/versions/{number}')}"


def _page(text: str, where: str) -> str:
    """A link to a page of MLflow, or its text where no server of MLflow is known."""
    address, stack = os.environ.get("MLFLOW_TRACKING_URI", ""), recorded(ROOT)
    if not address.startswith("http"):
        address = stack.mlflow_url if stack else ""
    login_free = "@" not in address  # an address with a password is shown nowhere
    return f"[{text}]({address.rstrip('/')}/{where})" if address.startswith("http") and login_free else f"{text} (`make up` shows it)"
