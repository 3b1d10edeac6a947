"""In front of the page: what the browser may fetch. Which pages may call it: origin.py.

Gradio serves files from its upload folder only (`allowed_paths` is empty); but it also fetches addresses for a client, as a file's path and
through `file=http://...`. Here nothing is fetched for anybody.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from pllava.apps.web.origin import Message, Receive, Scope, Send, refuse

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
FETCHING = ("/gradio_api/proxy=", "/proxy=", "/gradio_api/file=http:", "/gradio_api/file=https:", "/file=http:", "/file=https:")
LARGEST_BODY = 4 << 20  # bytes of a JSON request; uploads have a limit of their own


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        path = unquote(scope["path"])
        if any(part in path for part in FETCHING):
            await refuse(send, 403, "nothing is fetched from elsewhere; upload the file")
            return
        if scope["method"] == "POST" and headers.get("content-type", "").startswith("application/json"):
            body = await _body(receive)
            if body is None:
                await refuse(send, 413, "the request is too large")
                return
            if _names_an_address(body):
                await refuse(send, 403, "nothing is fetched from elsewhere; upload the file")
                return
            receive = _again(body, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*(pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in HEADERS), *ours]
            await send(message)

        await self.app(scope, receive, with_headers)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None when it is larger than a request of ours can be."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands the body over once more, then what comes after it (the client leaving)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _names_an_address(body: bytes) -> bool:
    """Whether a file in the request is an address on the web."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except ValueError:
        return False  # the application says so
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and "://" in path[:64]:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False
