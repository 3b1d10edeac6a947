"""Which web pages may call a service of ours: its own. ASGI middleware for every one of them, Prefect and MLflow included.

A service on loopback is out of reach for other machines, but not for the pages that a browser on this machine shows: they can post to it,
open a WebSocket, and read its answers where a name of theirs has been pointed at 127.0.0.1 (DNS rebinding). A browser tells in `Host`,
`Origin` and `Sec-Fetch-Site` by which name it came, and for which page. Programs send no `Origin` and are not concerned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/]+)(?::\d+)?")  # a Host header: name or address, and port
POLICY_VIOLATION = 1008  # why a WebSocket is closed


class OriginGuard:
    """hosts: the names a browser may call us by; None: any (a password guards the service then). opened_by: what printed our address."""

    def __init__(self, app: Any, hosts: Collection[str] | None = LOCAL, opened_by: str = "`make up`") -> None:
        self.app, self.hosts, self.opened_by = app, hosts, opened_by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = refusal(scope, self.hosts, self.opened_by)
        if problem is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})  # before it is accepted: the server answers 403
        else:
            await refuse(send, *problem)


def refusal(scope: Scope, hosts: Collection[str] | None, opened_by: str) -> tuple[int, str] | None:
    """Status and sentence for a request that is not answered; None for one that is."""
    if scope["type"] not in ("http", "websocket"):
        return None
    if hosts is not None and not called_by(scope, hosts):
        return 421, f"this name is not ours; open the address that {opened_by} printed"
    if from_elsewhere(scope, behind_a_proxy=hosts is None):
        return 403, "a page of another origin sends nothing here"
    return None


def called_by(scope: Scope, hosts: Collection[str]) -> bool:
    """Whether the request names one of these hosts, and no other."""
    names = [HOST.fullmatch(value) for value in _values(scope, "host")]
    return len(names) == 1 and names[0] is not None and names[0][1] in hosts


def from_elsewhere(scope: Scope, behind_a_proxy: bool = False) -> bool:
    """Whether a browser sends this for a page of another origin; a link that leads here is not meant.

    behind_a_proxy: the name in the browser may be another than the one the proxy calls us by. A foreign page cannot set
    `X-Forwarded-Host`: its browser asks for leave first, and gets none.
    """
    ours = _values(scope, "host") + (_values(scope, "x-forwarded-host") if behind_a_proxy else [])
    if any(origin.partition("://")[2] not in ours for origin in _values(scope, "origin")):  # also "null"
        return True
    if set(_values(scope, "sec-fetch-site")) <= {"same-origin", "none"}:  # not sent by older browsers and by programs
        return False
    opened = set(_values(scope, "sec-fetch-mode")) <= {"navigate"} and set(_values(scope, "sec-fetch-dest")) <= {"document"}
    return scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not opened


async def refuse(send: Send, status: int, text: str) -> None:
    """Answer with the sentence as JSON."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _values(scope: Scope, name: str) -> list[str]:
    """All values of a header, in lower case: names of hosts have no case."""
    return [value.decode("latin-1").strip().lower() for key, value in scope["headers"] if key.lower() == name.encode()]
