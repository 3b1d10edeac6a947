"""ASGI middleware that bounds uploads, and tells `Uploads` when an upload begins and which files arrived.

Two programs may upload the same file at once. `Uploads` counts the arrivals, so that the file stays until both are answered.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.requests import ClientDisconnect

from pllava.apps.web.budget import WAIT, Body, Budget
from pllava.apps.web.origin import Message, Receive, Scope, Send, refuse
from pllava.apps.web.uploads import Uploads

LARGEST = 201 << 20  # bytes of an upload: a file of 200 MB and the form around it
SECONDS = 600.0  # of an upload


class Arrivals:
    """Reads the paths of uploaded files from the response to an upload, a JSON list. Two of the largest uploads may be under way."""

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app = app
        self.uploads = uploads
        self.budget = Budget(2 * LARGEST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        size = int(declared) if declared.isdigit() and len(declared) < 20 else LARGEST + 1
        body, deadline, response, begun = Body(self.budget), time.monotonic() + SECONDS, b"", False
        problem = (413, "the upload is too large") if size > LARGEST else None
        if problem is None and not (body.hold(size) and self.uploads.has_room()):
            problem = (503, "too many uploads are under way")
        read = 0

        async def bounded() -> Message:
            """The next message; after a refusal, that the client has left."""
            nonlocal read, problem
            try:
                async with asyncio.timeout(None if begun else max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                problem = (408, f"the upload took longer than {SECONDS:.0f} s")
                return {"type": "http.disconnect"}
            read += len(message.get("body", b""))
            if read > LARGEST:
                problem = (413, "the upload is too large")
            elif not body.hold(read):
                problem = (503, "too many uploads are under way")
            return message if problem is None else {"type": "http.disconnect"}

        async def note_paths(message: Message) -> None:
            nonlocal response, begun
            if problem is not None and not begun:
                return  # `refuse` answers
            begun = True
            if message.get("status", 200) >= 400:
                body.release()  # the rest of the body is dropped as it comes
            if message["type"] == "http.response.body":
                response += message.get("body", b"")
                if not message.get("more_body"):
                    for path in _paths(response):
                        self.uploads.arrived(path)
            await send(message)

        try:
            if problem is None:
                with self.uploads.receiving():
                    await self.app(scope, bounded, note_paths)
        except ClientDisconnect:
            pass  # the client left, or `bounded` says so
        finally:
            body.release()
            self.uploads.tidy()
        if problem is not None and not begun:
            await refuse(send, *problem, retry_after=WAIT if problem[0] == 503 else None)


def _paths(response: bytes) -> list[str]:
    """The paths in the response to an upload; none when the response is an error."""
    try:
        paths = json.loads(response)
    except ValueError:
        return []
    return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
