"""What our pages without gradio share: security headers, the check of origin and Host, and the password."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Collection

from fastapi import FastAPI, Request
from fastapi.responses import Response

from pllava.apps.web.origin import refusal

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guard(app: FastAPI, hosts: Collection[str] | None, auth: tuple[str, str] | None, command: str) -> None:
    """Let only the app's own pages call it. hosts: names in `Host`; None: any. auth: (name, password). command: serves the app."""

    @app.middleware("http")
    async def answer(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response: Response
        if problem := refusal(request.scope, hosts, f"`{command}`"):
            response = Response(f"{problem[1]}\n", problem[0], media_type="text/plain")
        elif auth is not None and not _authorized(request.headers.get("authorization", ""), auth):
            response = Response("a name and a password are needed\n", 401, {"WWW-Authenticate": f'Basic realm="{command}"'})
        else:
            response = await call(request)
        response.headers.update(HEADERS)
        return response


def _authorized(header: str, auth: tuple[str, str]) -> bool:
    expected = base64.b64encode(":".join(auth).encode()).decode()
    return secrets.compare_digest(header.encode(), f"Basic {expected}".encode())
