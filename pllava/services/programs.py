"""The services of the stack: the command of each, and the address that shows whether it serves. `programs` lists them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from pllava.core.files import UMASK
from pllava.services.stack import HOST, STATE, Stack

POOL = "local"


@dataclass(frozen=True)
class Program:
    """One service. health: an address that returns 200 when the service serves. stop_seconds: from SIGTERM until it is killed.
    umask: of its files; the worker and the demo write files of the project, which get the modes that the user chose."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    health: str | None = None
    stop_seconds: int = 10
    umask: int = 0o077


def programs(stack: Stack) -> list[Program]:
    """The services in the order of their start. They stop in reverse order: workers end before the server they report to."""
    python = sys.executable
    prefect = Program(
        "prefect",
        [python, "-m", "pllava.services.servers", "prefect", "--port", str(stack.prefect_port)],
        environment={"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5"},  # how long a queued run waits for its next try
        health=f"{stack.prefect_url}/api/health",
    )
    mlflow = Program(
        "mlflow",
        [python, "-m", "pllava.services.servers", "mlflow", "--port", str(stack.mlflow_port)],
        environment=mlflow_environment(stack),
        health=f"{stack.mlflow_url}/health",
    )
    worker = Program(
        "worker",
        [python, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "worker"],
        environment={
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # how long a run waits to be started
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
            "PREFECT_WORKER_ENABLE_CANCELLATION": "true",  # also of runs that have not begun
        },
        stop_seconds=20,  # its runs end first
        umask=UMASK,
    )
    demo = Program("demo", [python, "-m", "pllava.services.demo"], stop_seconds=25, umask=UMASK)
    bridge = Program(
        "bridge",  # a champion made in MLflow's pages is served
        [python, "-m", "pllava.services.bridge", "--host", HOST, "--port", str(stack.bridge_port), "--prefect", stack.prefect_url],
        health=f"{stack.bridge_url}/health",
    )
    return [prefect, demo, worker] if stack.mlflow_elsewhere else [prefect, mlflow, bridge, demo, worker]


def mlflow_environment(stack: Stack) -> dict[str, str]:
    """Settings of MLflow's stores, without secrets. Addresses that the user has set are inherited: no file or command line holds them."""
    home = stack.root / STATE / "mlflow"
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 2 processes instead of 10
    if not os.environ.get("MLFLOW_BACKEND_STORE_URI"):
        settings["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{home / 'mlflow.db'}"
    if not os.environ.get("MLFLOW_ARTIFACTS_DESTINATION"):
        settings["MLFLOW_ARTIFACTS_DESTINATION"] = str(home / "artifacts")
    return settings
