"""ASGI middleware that tells `Uploads` what comes in and what came in: a file that two programs send at once is kept for both."""

from __future__ import annotations

import json
from typing import Any

from pllava.apps.web.origin import Message, Receive, Scope, Send
from pllava.apps.web.uploads import Uploads


class Arrivals:
    """Reads the answer to an upload, a JSON list of paths, before the client does."""

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        said = b""

        async def look(message: Message) -> None:
            nonlocal said
            if message["type"] == "http.response.body":
                said += message.get("body", b"")
                if not message.get("more_body"):
                    for path in _paths(said):
                        self.uploads.arrived(path)
            await send(message)

        with self.uploads.receiving():
            await self.app(scope, receive, look)


def _paths(said: bytes) -> list[str]:
    """Of an answer that is no list of them (an error): none."""
    try:
        found = json.loads(said)
    except ValueError:
        return []
    return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []
