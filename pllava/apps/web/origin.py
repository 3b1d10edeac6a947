"""Only a service's own pages may call the service. ASGI middleware for all our services, Prefect and MLflow included.

Other machines can't reach a service on loopback, but any web page in a browser on this machine can. A foreign page can post to the service
and open a WebSocket. With DNS rebinding (its own name pointed at 127.0.0.1) it can also read the answers. The browser's headers `Host`,
`Origin` and `Sec-Fetch-Site` show which name and which page a request comes from. Programs send no `Origin`; they are let through.
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
POLICY_VIOLATION = 1008  # close code of a WebSocket, RFC 6455


class OriginGuard:
    """hosts: the accepted names in `Host`; None: any, for a service with a password. opened_by: the command that printed the address."""

    def __init__(self, app: Any, hosts: Collection[str] | None = LOCAL, opened_by: str = "`make up`") -> None:
        self.app, self.hosts, self.opened_by = app, hosts, opened_by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = refusal(scope, self.hosts, self.opened_by)
        if problem is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})  # not accepted yet, so the server answers 403
        else:
            await refuse(send, *problem)


def refusal(scope: Scope, hosts: Collection[str] | None, opened_by: str) -> tuple[int, str] | None:
    """(HTTP status, sentence) for a request to refuse; None for a request to answer."""
    if scope["type"] not in ("http", "websocket"):
        return None
    if hosts is not None and not called_by(scope, hosts):
        return 421, f"this name is not ours; open the address that {opened_by} printed"
    if from_elsewhere(scope, behind_a_proxy=hosts is None):
        return 403, "a page of another origin sends nothing here"
    return None


def called_by(scope: Scope, hosts: Collection[str]) -> bool:
    """Whether the request has exactly one `Host` header, and the header names one of `hosts`."""
    names = [HOST.fullmatch(value) for value in _values(scope, "host")]
    return len(names) == 1 and names[0] is not None and names[0][1] in hosts


def from_elsewhere(scope: Scope, behind_a_proxy: bool = False) -> bool:
    """Whether a browser sends the request for a page of another origin. A link on a foreign page that opens our page is allowed.

    behind_a_proxy: `X-Forwarded-Host` counts as our name, too, because the proxy may call the service by another name than the browser.
    A foreign page cannot set this header: its browser would send a CORS preflight first, and the service does not allow it.
    """
    ours = _values(scope, "host") + (_values(scope, "x-forwarded-host") if behind_a_proxy else [])
    if any(origin.partition("://")[2] not in ours for origin in _values(scope, "origin")):  # also "null"
        return True
    if set(_values(scope, "sec-fetch-site")) <= {"same-origin", "none"}:  # older browsers and programs do not send it
        return False
    opened = set(_values(scope, "sec-fetch-mode")) <= {"navigate"} and set(_values(scope, "sec-fetch-dest")) <= {"document"}
    return scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not opened


async def refuse(send: Send, status: int, text: str, retry_after: int | None = None) -> None:
    """Send the response {"detail": text}. retry_after: seconds."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _values(scope: Scope, name: str) -> list[str]:
    """All values of a header, in lower case, because host names are case-insensitive."""
    return [value.decode("latin-1").strip().lower() for key, value in scope["headers"] if key.lower() == name.encode()]
