"""`with api():` the Prefect server that PREFECT_API_URL names; without one, a server of our own for the time of the block."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import ROOT
from pllava.core.errors import PllavaError
from pllava.services.health import answers, wait_until
from pllava.services.stack import HOST

PATIENCE = 300.0  # seconds until it serves, on a busy machine
LAST_WORDS = 5.0  # seconds for it to end once it was told to


@contextmanager
def api() -> Iterator[str]:
    """The address of the API. Raises PllavaError when our own server does not start."""
    if known := PREFECT_API_URL.value():
        yield known
        return
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pllava.services.servers", "prefect", "--port", str(port), "--temporary"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "PREFECT_UI_ENABLED": "false"}, stdin=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}/api"
        if not wait_until(lambda: answers(f"{url}/health"), PATIENCE, alive=lambda: server.poll() is None):
            raise PllavaError(
                f"Prefect's server does not start (exit code {server.poll()}): python -m pllava.services.servers prefect --port {port}"
            )
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        server.terminate()
        try:
            server.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
