"""From MLflow's registry to Prefect: a webhook that says "the alias moved" becomes a Prefect event, and an automation runs `deploy`.

    python -m pllava.services.bridge --port 5010 --prefect http://127.0.0.1:4200      /health answers 200; /mlflow is for the webhook

Nothing is believed that is not signed with the shared secret (HMAC-SHA256 over delivery id, time and body, as MLflow signs), is older than
five minutes, came in before, or is longer than a webhook of MLflow's can be. What is not about the alias `champion` is taken note of and
goes no further. `flows/connect.py` registers the webhook and the automation.
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
WINDOW = 300  # seconds a delivery is good for, in both directions: clocks differ
LONGEST = 64 << 10  # bytes of a body
ALIAS = "champion"


def resource(model: str) -> str:
    """The id of the Prefect resource that an event is about."""
    return f"pllava.model.{model}"


def secret(root: Path, name: str = "secret") -> str:
    """The secret that MLflow signs with, or another one by name; made at first use, readable by this user alone."""
    return stack.secret(root / HOME / name)


def mlflow_environment(root: Path) -> dict[str, str]:
    """What an MLflow server needs to send webhooks to loopback. The key has to stay the same: stored secrets are encrypted with it.

    It belongs in the environment of the server's process, not into a file.
    """
    return {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secret(root, "encryption_key"),
    }


class Deliveries:
    """Delivery ids that came in within the window; also those before a restart."""

    def __init__(self, file: Path):
        self._file = file
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._seen: dict[str, float] = {}
        # None yet, or not ours: then only the window protects.
        with suppress(FileNotFoundError, PllavaError, AttributeError, TypeError, ValueError):
            self._seen = {str(key): float(value) for key, value in read_json(file).items()}

    def begin(self, delivery: str) -> bool:
        """False for one that is known, or just being handled."""
        with self._lock:
            if delivery in self._seen or delivery in self._under_way:
                return False
            self._under_way.add(delivery)
            return True

    def end(self, delivery: str, done: bool) -> None:
        """`done` False: it may come again, as MLflow does after an error."""
        with self._lock:
            self._under_way.discard(delivery)
            if done:
                now = time.time()
                self._seen = {key: moment for key, moment in self._seen.items() if now - moment <= 2 * WINDOW} | {delivery: now}
                write_json(self._file, self._seen)


def signature(key: str, delivery: str, timestamp: str, body: bytes) -> str:
    """As MLflow computes it: "v1," and the base64 of the HMAC over "id.timestamp.body"."""
    digest = hmac.new(key.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def refusal(key: str, headers: Any, body: bytes, now: float) -> str | None:
    """Why a delivery is not believed; None when it is. What is wrong with a signature is not told in detail."""
    delivery, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    given = headers.get("x-mlflow-signature", "")
    if not delivery or len(delivery) > 100 or not timestamp.isascii() or not timestamp.isdigit() or not given:
        return "not signed"
    if not hmac.compare_digest(given.encode(), signature(key, delivery, timestamp, body).encode()):
        return "wrong signature"
    if abs(now - int(timestamp)) > WINDOW:
        return f"sent more than {WINDOW} s ago"
    return None


def create_app(root: Path, send: Callable[[dict[str, Any]], None], models: frozenset[str]) -> FastAPI:
    """The web application. `send` passes an event on and raises OSError when it cannot; `models`: registered models that count."""
    app = FastAPI(title="pllava bridge", docs_url=None, redoc_url=None, openapi_url=None)
    key, deliveries = secret(root), Deliveries(root / HOME / "deliveries.json")

    def say(code: int, text: str) -> Any:
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
                return say(413, f"more than {LONGEST} bytes")
        if reason := refusal(key, request.headers, bytes(body), time.time()):
            return say(401, reason)
        delivery = request.headers["x-mlflow-delivery-id"]
        if not deliveries.begin(delivery):
            return say(409, f"delivery {delivery} came in before")
        done = False
        try:
            event = event_of(bytes(body), models)
            if event is not None:
                await run_in_threadpool(send, event)
            done = True
        except ValueError as error:
            done = True
            return say(400, str(error))
        except OSError as error:
            return say(503, f"Prefect cannot be reached: {error}")  # MLflow tries again
        finally:
            deliveries.end(delivery, done)
        return say(200, f"passed on: {event['payload']}" if event else "nothing to do")

    return app


def event_of(body: bytes, models: frozenset[str]) -> dict[str, Any] | None:
    """The Prefect event of a webhook's body, None when it is not about a champion of ours. Raises ValueError for what is no webhook."""
    try:
        said = json.loads(body)
        entity, action, data = said["entity"], said["action"], said["data"]
    except (ValueError, KeyError, TypeError):
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
    """Posts events to the API of this Prefect server, with the login of the environment."""
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
