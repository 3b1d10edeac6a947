"""ASGI middleware that tells `Uploads` when an upload begins and which files arrived.

Two programs may upload the same file at once. `Uploads` counts the arrivals, so that the file stays until both are answered.
"""

from __future__ import annotations

import json
from typing import Any

from pllava.apps.web.origin import Message, Receive, Scope, Send
from pllava.apps.web.uploads import Uploads


class Arrivals:
    """Reads the paths of uploaded files from the response to an upload, a JSON list."""

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        response = b""

        async def note_paths(message: Message) -> None:
            nonlocal response
            if message["type"] == "http.response.body":
                response += message.get("body", b"")
                if not message.get("more_body"):
                    for path in _paths(response):
                        self.uploads.arrived(path)
            await send(message)

        with self.uploads.receiving():
            await self.app(scope, receive, note_paths)


def _paths(response: bytes) -> list[str]:
    """The paths in the response to an upload; none when the response is an error."""
    try:
        paths = json.loads(response)
    except ValueError:
        return []
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
