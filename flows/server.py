"""`with api() as url:` use the Prefect server of PREFECT_API_URL, else that of `make up`; else start one and stop it after the block.

Prefect would start one too, whose pages check no Host. `@served` above a flow: a call of the flow from Python uses `api`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Flow
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import ROOT
from pllava.core.errors import PllavaError
from pllava.core.processes import end_tree
from pllava.services.health import answers, wait_until
from pllava.services.stack import HOST, recorded

START_SECONDS = 300.0  # until the server answers, on a busy machine
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL


@contextmanager
def api() -> Iterator[str]:
    """Yields the address of the API. Raises PllavaError when the server does not start."""
    if known := PREFECT_API_URL.value():
        yield known
        return
    stack = recorded(ROOT)
    if stack is not None and answers(f"{stack.prefect_url}/api/health"):  # `make up` runs
        url = f"{stack.prefect_url}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: stack.login()["PREFECT_API_AUTH_STRING"]}):
            yield url
            _deliver_logs_and_events()
        return
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pllava.services.servers", "prefect", "--port", str(port), "--temporary"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "PREFECT_UI_ENABLED": "false"}, stdin=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}/api"
        if not wait_until(lambda: answers(f"{url}/health"), START_SECONDS, alive=lambda: server.poll() is None):
            raise PllavaError(
                f"Prefect's server does not start (exit code {server.poll()}): python -m pllava.services.servers prefect --port {port}"
            )
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        _deliver_logs_and_events()
        end_tree(server.pid, STOP_SECONDS)
        server.wait()


class _Served(Flow[..., Any]):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with api():
            return super().__call__(*arguments, **options)


def served(flow: Flow[..., Any]) -> Flow[..., Any]:
    """The flow; when it is called without PREFECT_API_URL, it runs with a server of `api`."""
    flow.__class__ = _Served
    return flow


def _deliver_logs_and_events() -> None:
    """Send what Prefect's workers still hold. After the server has ended they would try for a minute, and print that they cannot."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=STOP_SECONDS)
