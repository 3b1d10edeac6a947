"""A client that is refused while it sends reads why; it does not find its connection broken."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pllava.apps.web import refused_body
from pllava.apps.web.refused_body import RefusedBody

SIZE = 24 << 20  # more than the buffers of a socket hold


async def refuse(request: Request) -> PlainTextResponse:
    return PlainTextResponse("too large", 413)


async def begin(request: Request) -> PlainTextResponse:
    async for part in request.stream():
        if part:
            break
    return PlainTextResponse("not this", 400)


async def take(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    routes = [Route(f"/{answer.__name__}", answer, methods=["GET", "POST"]) for answer in (refuse, begin, take)]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(RefusedBody(Starlette(routes=routes)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST /{path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", ""]).encode()


def read(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(("path", "status"), [("refuse", b" 413 "), ("begin", b" 400 "), ("nothing", b" 404 "), ("take", b" 200 ")])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_whole_body_is_sent_and_the_answer_is_read(port: int, path: str, status: bytes, chunked: bool):
    part = b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head(path, "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"))
        for _ in range(SIZE // len(part)):
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        answer = read(connection)
    assert status in answer.splitlines()[0]
    if path == "take":
        assert answer.endswith(str(SIZE).encode())


def test_who_waits_for_leave_to_send_is_refused_at_once(port: int):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head("refuse", f"Content-Length: {SIZE}", "Expect: 100-continue"))
        answer = read(connection)
    assert b" 413 " in answer.splitlines()[0]
    assert b"100 Continue" not in answer


def test_there_is_no_waiting_for_ever_and_none_without_a_body(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refused_body, "MAX_SECONDS", 0.3)
    for headers in ([f"Content-Length: {SIZE}"], [f"Content-Length: {refused_body.MAX_BYTES + 1}"], ["Content-Length: 0"], []):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(head("refuse", *headers))
            assert b" 413 " in read(connection).splitlines()[0]
        assert (time.monotonic() - began > 0.3) == (headers == [f"Content-Length: {SIZE}"])
