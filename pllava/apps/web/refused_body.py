"""The body of a request that is refused: read to its end, and dropped, before the answer.

A server that answers and closes while the client still sends resets the connection, and the client sees that instead of the reason
(RFC 9112, section 9.6). So the client is let finish, within bounds; one that waits for leave to send (`Expect: 100-continue`) gets none.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 1 << 30  # more than this is cut off
MAX_SECONDS = 20.0  # a slow client is cut off, too


class RefusedBody:
    """ASGI middleware, to stand in front of all others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.strip().lower() for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"0")
        expected = b"transfer-encoding" in headers or (length.isdigit() and 0 < int(length) <= MAX_BYTES)
        read = 0

        async def counted() -> Message:
            nonlocal read, expected
            message = await receive()
            read += len(message.get("body", b""))
            expected = expected and bool(message.get("more_body"))
            return message

        async def after_the_body(message: Message) -> None:
            waits = headers.get(b"expect") == b"100-continue" and not read
            if message["type"] == "http.response.start" and message["status"] >= 400 and not waits:
                try:
                    async with asyncio.timeout(MAX_SECONDS):
                        while expected and read <= MAX_BYTES:
                            await counted()
                except TimeoutError:
                    pass
            await send(message)

        await self.app(scope, counted, after_the_body)
