"""Idle and slow clients are let go, and keep nobody out; who sends and reads at a fair pace notices nothing."""

import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from foreign_page import ask, served
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pllava.apps.web import connections

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"


async def answer(request):
    try:
        return PlainTextResponse(str(len(await request.body())))
    except ClientDisconnect:
        return PlainTextResponse("left")


@pytest.fixture(scope="module")
def url():
    app = Starlette(
        routes=[Route("/", answer, methods=["GET", "POST"]), Route("/large", lambda _: Response(bytes(64 << 20)))],
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TICK": 0.1, "HEAD": 0.4, "UNREAD": 0.4, "MOST": 30, "MOST_OF_ONE": 20}.items():
            patch.setattr(connections, name, value)
        with served(app, http=connections.Connection, timeout_keep_alive=60) as url:
            yield url


def connect(url):
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port), 10)


def all_read(connection):
    try:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("first", "drip", "status"),
    [
        (b"", b"", b""),
        (b"", b"\r\n", b""),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n", b" 408 "),
        (GET, b"", b" 200 "),
        (GET, b"G", b" 408 "),
        (POST, b"", b" 408 "),
        (POST, b"a", b" 408 "),
        (POST.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked"), b"1\r\na\r\n", b" 408 "),
    ],
    ids=["says nothing", "empty lines", "slow head", "idle after an answer", "slow second head", "no body", "slow body", "slow chunks"],
)
def test_a_client_that_says_too_little_is_let_go(url, first, drip, status):
    began = time.monotonic()
    with connect(url) as connection:
        connection.sendall(first)
        connection.settimeout(0.05)
        received, closed = b"", False
        while not closed and time.monotonic() - began < 8:
            try:
                if drip:
                    connection.sendall(drip)
                piece = connection.recv(1 << 16)
                received, closed = received + piece, not piece
            except TimeoutError:
                pass
            except OSError:
                closed = True
    assert closed
    assert status in received


def test_a_client_that_does_not_read_its_answer_is_let_go(url):
    with connect(url) as connection:
        connection.sendall(GET.replace(b" / ", b" /large "))
        time.sleep(2)
        assert len(all_read(connection)) < 64 << 20


def test_a_body_at_a_fair_pace_is_read(url, monkeypatch):
    with connect(url) as connection:
        connection.sendall(POST.replace(b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nConnection: close\r\n"))
        for _ in range(20):
            connection.sendall(bytes(5000))
            time.sleep(0.05)
        assert all_read(connection).endswith(b"100000")


def test_idle_connections_shut_nobody_out(url):
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(url)) for _ in range(100)]
        for half in idle[::2]:
            half.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):
            assert ask(url)[0] == 200


def test_one_client_with_many_requests_is_refused_and_another_is_answered(url, monkeypatch):
    monkeypatch.setattr(connections, "SLOWEST", 0)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(url)).sendall(POST)
        time.sleep(0.3)
        with connect(url) as refused:
            assert b" 503 " in all_read(refused)
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), 10, source_address=("127.0.0.2", 0)) as other:
            other.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert b" 200 " in all_read(other)
