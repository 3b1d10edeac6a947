"""Connections of a service: idle and slow ones are closed, and never shut others out. For `uvicorn.Config(http=Connection)`.

uvicorn's own keep-alive time-out ends with the first byte of the next request, and a new connection has no time-out at all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

TICK = 5.0  # seconds between two looks at a connection
HEAD = 10.0  # seconds for the head of a request, and of a connection without a request
SLOWEST = 16 << 10  # bytes of a body in a second; less in a whole TICK is too slow
UNREAD = 30.0  # seconds of an answer that the client does not read
MOST = 256  # connections
MOST_OF_ONE = 128  # connections of one client address


class Connection(H11Protocol):
    """A connection. `since`: when it became idle, in seconds of the loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        self._received, self._in_head, self._unread_since = 0, False, 0.0
        self._seen: Any = None  # the request of the last look
        self._timer = self.loop.call_later(TICK, self._look)
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        own = [one for one in others if one.client and self.client and one.client[0] == self.client[0]]
        if len(own) >= MOST_OF_ONE or len(others) >= MOST:
            idle = [one for one in (own if len(own) >= MOST_OF_ONE else others) if one.is_idle]
            if idle:
                min(idle, key=lambda one: one.since).drop()
            else:
                self.drop(b"503 Service Unavailable")

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._in_head = self.is_idle

    def on_response_complete(self) -> None:
        self.since, self._in_head = self.loop.time(), False
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._timer.cancel()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = 0.0
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def drop(self, status: bytes = b"") -> None:
        """Close the connection, after a response without a body if a status is given."""
        self.connections.discard(self)
        if status and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        else:
            self.transport.abort()

    def _look(self) -> None:
        """Drop the connection if it has been idle or slow for too long."""
        received, self._received = self._received, 0
        whole_tick, self._seen = self._seen is self.cycle, self.cycle
        now = self.loop.time()
        if self.transport.is_closing() or (self._unread_since and now - self._unread_since > UNREAD):
            self.drop()
        elif self.is_idle:
            if now - self.since > HEAD:
                self.drop(b"408 Request Timeout" if self._in_head else b"")
        elif whole_tick and received < SLOWEST * TICK and self._awaits_body:
            self.drop(b"" if self.cycle.response_started else b"408 Request Timeout")
        self._timer = self.loop.call_later(TICK, self._look)

    @property
    def _awaits_body(self) -> bool:
        """Whether the client may send the body and has not sent all of it."""
        return self.cycle.more_body and not self.cycle.waiting_for_100_continue and not self.flow.read_paused
