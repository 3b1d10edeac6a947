"""Refuses requests that make the server fetch a web address, and sets the page's security headers. Which pages may call it: origin.py.

Gradio serves files from its upload folder only (`allowed_paths` is empty). But a client can also name a web address, as the path of a file
or in `file=http://...`, and Gradio then fetches the address. `Guard` refuses such requests.
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
LARGEST_BODY = 4 << 20  # bytes of a request that is no upload; Arrivals limits uploads
DEEPEST = 64  # lists and objects inside each other


class Guard:
    """ASGI middleware.

    Checks the body of every POST but an upload, whatever its content type: Gradio also reads JSON under types such as
    `Application/JSON`, `application/x+json` or none.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(scope["path"]).lower()
        if any(part in path for part in FETCHING):
            await refuse(send, 403, "nothing is fetched from elsewhere; upload the file")
            return
        if scope["method"] == "POST" and not _is_upload(scope):
            body = await _read_body(receive)
            if body is None:
                await refuse(send, 413, "the request is too large")
                return
            if problem := _problem(body, is_form=scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") == "/login"):
                await refuse(send, *problem)
                return
            receive = _replay(body, receive)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*(pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in HEADERS), *ours]
            await send(message)

        await self.app(scope, receive, with_headers)


def _is_upload(scope: Scope) -> bool:
    """Whether the request sends files as a form. A request with several content types has the first, as for Starlette."""
    content_types = [value for name, value in scope["headers"] if name.lower() == b"content-type"]
    return scope["path"].endswith("/upload") and bool(content_types) and content_types[0].lower().startswith(b"multipart/form-data")


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when it has more than LARGEST_BODY bytes."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body first, then the messages after the body (the client's disconnect)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _problem(body: bytes, is_form: bool) -> tuple[int, str] | None:
    """(status, sentence) for a body to refuse: no JSON, deep JSON, or the `path` of a file in it is a web address. None: it is fine."""
    if not body or is_form:
        return None
    try:
        level: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return 400, "the body is no JSON, or has too many levels"
    for _ in range(DEEPEST):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                path = value.get("path")
                if isinstance(path, str) and "://" in path:
                    return 403, "nothing is fetched from elsewhere; upload the file"
                following += value.values()
            elif isinstance(value, list):
                following += value
        level = following
        if not level:
            return None
    return 400, f"the body has more than {DEEPEST} levels"
