"""An OpenAI-compatible server on this machine that does what a test wants, well or badly: `server.acts = [fails(429), half_a_reply]`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pllava.core.params import Judge as Settings

KEY = "sk-not-to-be-seen-anywhere"
Act = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"body": body, "key": self.headers["Authorization"]})
            act = self.server.acts.pop(0) if self.server.acts else self.server.default
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
        try:
            act(self, body)
        finally:
            with self.server.lock:
                self.server.running -= 1

    def send(self, status: int, body: str, content_type: str = "application/json", cut: int = 0, **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[: len(data) - cut])
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.acts: list[Act] = []
        self.default: Act = says("{'pred': 'yes', 'score': 4}")
        self.running = self.most = 0


def says(reply: object, read: int = 100, written: int = 10) -> Act:
    message = {"role": "assistant", "content": reply}
    completion = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }
    return lambda handler, body: handler.send(200, json.dumps(completion))


def fails(status: int, **headers: str) -> Act:
    return lambda handler, body: handler.send(status, json.dumps({"error": {"message": f"no, {KEY}"}}), **headers)


def half_a_reply(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, json.dumps({"id": "1", "choices": [{"message": {"content": "{'pred': 'yes', 'score': 5}"}}]}), cut=30)


def half_an_error(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(500, json.dumps({"error": {"message": "out of memory, and much to say about it"}}), cut=30)


def wrong_json(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, '{"choices": [{"message": ')


def another_object(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, '{"status": "fine"}')


def a_web_page(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, "<html>login</html>", content_type="text/html")


def hangs_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.close()


def drips(handler: Handler, body: dict[str, Any]) -> None:
    """A byte now and then, for five seconds."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    for _ in range(50):
        time.sleep(0.1)
        handler.wfile.write(b" ")
        handler.wfile.flush()


def sleeps(handler: Handler, body: dict[str, Any]) -> None:
    time.sleep(1.5)


def replies(body: str, content_type: str = "application/json", status: int = 200, **headers: str) -> Act:
    return lambda handler, _: handler.send(status, body, content_type, **headers)


def sends(first: bytes, again: bytes = b"", pause: float = 0.0) -> Act:
    """Raw bytes, then others again and again until the client hangs up; the connection ends at once when there are none."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        until = time.monotonic() + 30
        with suppress(OSError):
            handler.wfile.write(first)
            while again and time.monotonic() < until:
                handler.wfile.write(again)
                time.sleep(pause)
        handler.close_connection = True

    return act


FIELDS = {"question": "What is it?", "answer": "a square", "prediction": "It is a square."}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"attempts": 3, "backoff_seconds": 0.01, "timeout_seconds": 0.5, "concurrency": 4} | changes)


def rows(count: int, prediction: str = "It is a square.") -> list[dict[str, Any]]:
    return [
        {"model": "m", "id": f"s/{n}", "task": "MSVD-QA", "media": f"{n}.mp4", "candidates": [], "error": None}
        | {"question": f"what is it, {n}?", "answer": "a square", "prediction": prediction}
        for n in range(count)
    ]
