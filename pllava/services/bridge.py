"""Pass webhooks of MLflow's registry on to Prefect: "the alias moved" becomes a Prefect event, and an automation runs `deploy`.

    python -m pllava.services.bridge --port 5010 --prefect http://127.0.0.1:4200      /health answers 200; /mlflow is for the webhook

A webhook is refused when its signature by the shared secret is wrong (HMAC-SHA256 over delivery id, time and body, as MLflow signs), when
it is older than five minutes, was received before, or is longer than LONGEST. A webhook that is not about the alias `champion` is answered
and not passed on. `flows/connect.py` registers the webhook and the automation.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json
from pllava.services import stack

HOME = Path(".state/bridge")  # under the project folder
PATH, HEALTH = "/mlflow", "/health"
EVENT = "pllava.champion.moved"
WINDOW = 300  # seconds that a delivery's time may differ from ours, in both directions: clocks differ
LONGEST = 64 << 10  # largest body, in bytes
ALIAS = "champion"


def resource(model: str) -> str:
    """The id of the Prefect resource that an event is about."""
    return f"pllava.model.{model}"


def secret(root: Path, name: str = "secret") -> str:
    """The secret with which MLflow signs, or another secret by name. Made at first use; only this user can read its file."""
    return stack.secret(root / HOME / name)


def mlflow_environment(root: Path) -> dict[str, str]:
    """Environment variables that let an MLflow server send webhooks to loopback. Pass them to the server's process; write them to no file.

    The encryption key must stay the same: MLflow encrypts stored secrets with it.
    """
    return {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secret(root, "encryption_key"),
    }


class Deliveries:
    """The ids of recent deliveries, kept in a file across restarts."""

    def __init__(self, file: Path):
        self._file = file
        self._lock = threading.Lock()
        self._in_progress: set[str] = set()
        self._seen: dict[str, float] = {}
        # Without a readable file, only WINDOW protects against repeated deliveries.
        with suppress(FileNotFoundError, PllavaError, AttributeError, TypeError, ValueError):
            self._seen = {str(key): float(value) for key, value in read_json(file).items()}

    def begin(self, delivery: str) -> bool:
        """Start to handle a delivery. False when it was handled before, or is being handled."""
        with self._lock:
            if delivery in self._seen or delivery in self._in_progress:
                return False
            self._in_progress.add(delivery)
            return True

    def end(self, delivery: str, done: bool) -> None:
        """Finish a delivery. done False: MLflow may send the delivery again, as it does after an error."""
        with self._lock:
            self._in_progress.discard(delivery)
            if done:
                now = time.time()
                self._seen = {key: moment for key, moment in self._seen.items() if now - moment <= 2 * WINDOW} | {delivery: now}
                write_json(self._file, self._seen)


def signature(key: str, delivery: str, timestamp: str, body: bytes) -> str:
    """The signature as MLflow computes it: "v1," and the base64 of the HMAC over "id.timestamp.body"."""
    digest = hmac.new(key.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def refusal(key: str, headers: Any, body: bytes, now: float) -> str | None:
    """Why a delivery is refused, or None. The reason gives no details about a wrong signature."""
    delivery, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    received = headers.get("x-mlflow-signature", "")
    if not delivery or len(delivery) > 100 or not timestamp.isascii() or not timestamp.isdigit() or not received:
        return "not signed"
    if not hmac.compare_digest(received.encode(), signature(key, delivery, timestamp, body).encode()):
        return "wrong signature"
    if abs(now - int(timestamp)) > WINDOW:
        return f"sent more than {WINDOW} s ago"
    return None


def create_app(root: Path, send: Callable[[dict[str, Any]], None], models: frozenset[str]) -> FastAPI:
    """The web application. `send` posts an event and raises OSError when it cannot; `models`: names of the registered models to follow."""
    app = FastAPI(title="pllava bridge", docs_url=None, redoc_url=None, openapi_url=None)
    key, deliveries = secret(root), Deliveries(root / HOME / "deliveries.json")

    def reply(code: int, text: str) -> Any:
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {code} {text}", flush=True)
        return JSONResponse({"detail": text}, code)

    @app.get(HEALTH)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(PATH)
    async def mlflow(request: Request) -> Any:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST:
                return reply(413, f"more than {LONGEST} bytes")
        if reason := refusal(key, request.headers, bytes(body), time.time()):
            return reply(401, reason)
        delivery = request.headers["x-mlflow-delivery-id"]
        if not deliveries.begin(delivery):
            return reply(409, f"delivery {delivery} came in before")
        done = False
        try:
            event = event_of(bytes(body), models)
            if event is not None:
                await run_in_threadpool(send, event)
            done = True
        except ValueError as error:
            done = True
            return reply(400, str(error))
        except OSError as error:
            return reply(503, f"Prefect cannot be reached: {error}")  # MLflow tries again
        finally:
            deliveries.end(delivery, done)
        return reply(200, f"passed on: {event['payload']}" if event else "nothing to do")

    return app


def event_of(body: bytes, models: frozenset[str]) -> dict[str, Any] | None:
    """The Prefect event for a webhook's body; None when it is not about a champion of `models`. Raises ValueError for another body."""
    try:
        webhook = json.loads(body)
        entity, action, data = webhook["entity"], webhook["action"], webhook["data"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ValueError("the body is no webhook of MLflow's") from None
    if (entity, action) != ("model_version_alias", "created") or not isinstance(data, dict):
        return None
    name, version = str(data.get("name")), str(data.get("version"))
    if data.get("alias") != ALIAS or name not in models or not version.isdigit():
        return None
    return {
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": resource(name), "prefect.resource.name": name},
        "payload": {"model": name, "version": int(version)},
    }


def sender(prefect: str) -> Callable[[dict[str, Any]], None]:
    """A function that posts events to the API of a Prefect server, with the login of the environment."""
    import httpx

    name, colon, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    login = (name, password) if colon else None

    def send(event: dict[str, Any]) -> None:
        from uuid import uuid4

        try:
            with httpx.Client(auth=login, trust_env=False, timeout=10) as client:  # loopback is never reached through a proxy
                client.post(f"{prefect.rstrip('/')}/api/events", json=[event | {"id": str(uuid4())}]).raise_for_status()
        except httpx.HTTPError as error:
            raise OSError(f"{type(error).__name__}: {error}") from None

    return send


def main() -> None:
    import uvicorn

    from pllava.apps.web.origin import OriginGuard
    from pllava.core.params import load_params
    from pllava.tracking.store import project_root

    parser = argparse.ArgumentParser(
        prog="python -m pllava.services.bridge", description="Webhooks of MLflow's registry become Prefect events"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefect", required=True, metavar="URL", help="http://127.0.0.1:4200")
    arguments = parser.parse_args()
    root = project_root()
    models = frozenset({load_params(root / "params.yaml").registry.model_name})
    app = OriginGuard(create_app(root, sender(arguments.prefect), models))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
