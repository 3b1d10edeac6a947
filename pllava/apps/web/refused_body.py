"""Reads the body of a refused request to its end and drops it, then sends the answer.

A server that closes the connection while the client still sends resets it, and the client sees the reset instead of the answer (RFC 9112,
section 9.6). So the client may finish, within bounds. A client that waits for permission to send (`Expect: 100-continue`) gets the answer
at once.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 1 << 30  # of a body; a larger body is not read to its end
MAX_SECONDS = 20.0  # of reading; a slower body is not read to its end


class RefusedBody:
    """ASGI middleware. It must be the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.strip().lower() for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"0")
        more_body = b"transfer-encoding" in headers or (length.isdigit() and 0 < int(length) <= MAX_BYTES)
        read = 0

        async def counted() -> Message:
            nonlocal read, more_body
            message = await receive()
            read += len(message.get("body", b""))
            more_body = more_body and bool(message.get("more_body"))
            return message

        async def send_after_body(message: Message) -> None:
            waits_for_permission = headers.get(b"expect") == b"100-continue" and not read
            if message["type"] == "http.response.start" and message["status"] >= 400 and not waits_for_permission:
                try:
                    async with asyncio.timeout(MAX_SECONDS):
                        while more_body and read <= MAX_BYTES:
                            await counted()
                except TimeoutError:
                    pass
            await send(message)

        await self.app(scope, counted, send_after_body)
