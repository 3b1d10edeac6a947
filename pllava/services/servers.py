"""Prefect's and MLflow's servers, each behind the origin guard: `python -m pllava.services.servers prefect --port 4200`.

`make up` starts both. A flow that runs without them starts Prefect's server until its end (flows/server.py). Without the guard, Prefect
answers pages of any origin, and MLflow those of any local port. The servers read their settings from the environment.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from pllava.apps.web.origin import OriginGuard
from pllava.core.signals import end_with_parent
from pllava.services.stack import HOST


def prefect(temporary: bool) -> tuple[Any, dict[str, Any]]:
    """Prefect's application, and the options of uvicorn that `prefect server start` uses. temporary: without pages and schedules."""
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    options = {
        "timeout_keep_alive": server.api.keepalive_timeout,
        "ws_ping_interval": server.api.websocket_ping_interval,
        "ws_ping_timeout": server.api.websocket_ping_timeout,
        "log_level": "error" if temporary else server.logging_level.lower(),
    }
    return create_app(ephemeral=temporary, final=True), options


def mlflow() -> tuple[Any, dict[str, Any]]:
    """MLflow's application with the stores of the environment, and no options of uvicorn. As `mlflow server`, but in one process."""
    from mlflow.server import constants, handlers

    records = os.environ["MLFLOW_BACKEND_STORE_URI"]
    registry = os.environ.get("MLFLOW_REGISTRY_STORE_URI") or records
    files = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or "mlflow-artifacts:/"  # clients hand files to the server
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: records,
        constants.REGISTRY_STORE_URI_ENV_VAR: registry,
        constants.ARTIFACT_ROOT_ENV_VAR: files,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    handlers.initialize_backend_stores(records, registry, files)
    from mlflow.server.fastapi_app import app

    return app, {}


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m pllava.services.servers", description="Prefect or MLflow, for its own pages only")
    parser.add_argument("name", choices=("prefect", "mlflow"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--temporary", action="store_true", help="Prefect's API alone")
    arguments = parser.parse_args()
    if arguments.temporary:
        end_with_parent()
    app, options = prefect(arguments.temporary) if arguments.name == "prefect" else mlflow()
    uvicorn.run(OriginGuard(app), host=HOST, port=arguments.port, **options)


if __name__ == "__main__":
    main()
