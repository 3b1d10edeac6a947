"""What a request may cost: bytes before it is queued, room of half-sent uploads, work after its client has left."""

from __future__ import annotations

import base64
import io
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from foreign_page import ask, served
from PIL import Image

import pllava
from pllava.apps.serve.errors import ApiError
from pllava.apps.serve.files import Files
from pllava.apps.serve.protocol import LONGEST_STOP, MOST_STOPS, parse
from pllava.apps.serve.server import build_app
from pllava.apps.serve.settings import ServeSettings
from pllava.apps.web.budget import Body, Budget
from pllava.apps.web.connections import Connection
from pllava.video.readers import Readers

SETTINGS = ServeSettings(max_bytes=1 << 20, max_new_tokens=3000, max_waiting=1, timeout=30)
CHAT = "/v1/chat/completions"
JSON = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def url(load_tiny: Any, tiny_processor: Any) -> Iterator[str]:
    chat = pllava.VideoChat(load_tiny("tiny56_base"), tiny_processor, template="vicuna")
    with served(build_app(chat, ["tiny"], SETTINGS), http=Connection) as url:
        yield url


def request(text: str = "Who?", **more: Any) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (9, 99, 9)).save(picture, "PNG")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()}}
    content = [image, {"type": "text", "text": text}]
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 2} | more).encode()


def begin(url: str, path: str, size: int, sent: bytes = b"", kind: str = "application/json") -> socket.socket:
    """A connection with a POST of `size` bytes, of which `sent` are sent."""
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port), 10)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{where.port}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


def state(url: str) -> dict[str, Any]:
    return json.loads(ask(f"{url}/health")[2])


def idle(url: str, seconds: float) -> bool:
    """Whether nothing is answered or waits, within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if state(url)["running"] == state(url)["waiting"] == 0:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
def test_bodies_together_are_bounded_before_they_are_read(url: str, path: str):
    with ExitStack() as stack:
        for _ in range(2):
            kind = "application/json" if path == CHAT else "multipart/form-data; boundary=end"
            stack.enter_context(begin(url, path, SETTINGS.max_body, b"--end\r\n", kind))
        time.sleep(0.2)
        for wanted in (CHAT, "/v1/files"):
            status, headers, body = ask(f"{url}{wanted}", "POST", bytes(SETTINGS.max_body), **JSON)
            assert (status, headers["retry-after"]) == (429, "5"), body
        assert ask(f"{url}/health")[0] == 200
    assert idle(url, 5)
    time.sleep(0.3)
    assert ask(f"{url}{CHAT}", "POST", request(), **JSON)[0] == 200, "the bytes of those who left are free again"


def test_a_body_without_a_declared_size_counts_as_it_comes():
    budget = Budget(100)
    one, two = Body(budget), Body(budget)
    assert one.hold(60)
    assert one.hold(60)
    assert two.hold(40)
    assert not two.hold(41)
    one.release()
    one.release()
    assert two.hold(100)
    two.release()
    assert budget.taken == 0


def test_half_sent_uploads_count_against_the_store_and_remove_nothing_by_themselves(reference: Path):
    clip = (reference / "video" / "clip_short.mp4").read_bytes()
    budget = Budget(1 << 30)
    with Readers(1) as readers:
        files = Files(ServeSettings(max_stored_bytes=3 * len(clip)), readers, budget)
        first, second = (files.add(io.BytesIO(clip), name) for name in ("a.mp4", "b.mp4"))
        under_way = Body(budget)
        under_way.hold(2 * len(clip))
        assert files.all() == [first, second]
        third = files.add(io.BytesIO(clip), "c.mp4")
        assert files.all() == [third]
        under_way.release()
        assert len([*files.all(), files.add(io.BytesIO(clip), "d.mp4")]) == 2
        files.close()


def test_small_uploads_are_bounded_in_number(reference: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pllava.apps.serve.files.MOST_FILES", 2)
    clip = (reference / "video" / "clip_short.mp4").read_bytes()
    with Readers(1) as readers:
        files = Files(ServeSettings(), readers)
        added = [files.add(io.BytesIO(clip), "a.mp4") for _ in range(3)]
        assert files.all() == added[1:]
        assert {path.name for path in files.folder.iterdir()} == {one.id for one in added[1:]}
        files.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_stops_within_a_step_of_a_client_that_leaves(url: str, stream: bool):
    body = request("Where is it now?", max_tokens=3000, stream=stream)
    connection = begin(url, CHAT, len(body), body)
    until = time.monotonic() + 20
    while not state(url)["running"] and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)
    assert state(url)["running"] == 1, "the answer is too short for this test"
    connection.close()
    assert idle(url, 1.0)


def test_the_video_of_a_waiting_request_is_on_disk_and_goes_with_it(
    load_tiny: Any, tiny_processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chat = pllava.VideoChat(load_tiny("tiny56_base"), tiny_processor, template="vicuna")
    app = build_app(chat, ["tiny"], SETTINGS)
    with served(app, http=Connection) as url:
        long = request("Where is it now?", max_tokens=3000)
        connections = [begin(url, CHAT, len(long), long) for _ in range(2)]
        until = time.monotonic() + 20
        while state(url)["waiting"] < 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert list(tmp_path.rglob("request-*")), "the one that waits; the other is read by now or soon"
        status, headers, _ = ask(f"{url}{CHAT}", "POST", bytes(SETTINGS.max_body), **JSON)
        assert (status, int(headers["retry-after"]) >= 1) == (429, True), "refused before its body is read as JSON"
        for connection in reversed(connections):
            connection.close()
        assert idle(url, 2.0)
        assert not list(tmp_path.rglob("request-*"))


@pytest.mark.parametrize(
    ("stop", "said"),
    [("x" * (LONGEST_STOP + 1), "characters"), (["a", "x" * 5_000_000], "characters"), (["a"] * (MOST_STOPS + 1), "at most 4")],
)
def test_stop_strings_are_few_and_short(stop: Any, said: str):
    with pytest.raises(ApiError, match=said) as refused:
        parse(json.loads(request(stop=stop)), SETTINGS)
    assert (refused.value.status, refused.value.body["error"]["param"]) == (400, "stop")
    assert parse(json.loads(request(stop=["x" * LONGEST_STOP] * MOST_STOPS)), SETTINGS).stop


@pytest.mark.parametrize("name", ["n", "seed", "stream", "max_tokens", "temperature", "messages", "stop", "model"])
@pytest.mark.parametrize("value", [["x"] * 10**6, "9" * 10**6, {"a": [[["b"]]]}, 10**4000], ids=["list", "text", "object", "number"])
def test_a_refusal_repeats_little_of_what_was_sent(name: str, value: Any):
    body = json.loads(request()) | {name: value}
    try:
        parse(body, SETTINGS)
    except ApiError as error:
        assert len(error.message) < 400


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "body",
    [
        request().replace(b'"max_tokens": 2', b'"max_tokens": ' + DIGITS.encode()),
        request().replace(b'"max_tokens": 2', b'"seed": ' + DIGITS.encode()),
        request().replace(b'"max_tokens": 2', b'"temperature": ' + DIGITS.encode()),
        b"[" * 100_000 + b"]" * 100_000,
        request("word " * 200_000),
    ],
    ids=["tokens", "seed", "temperature", "deep", "a long text"],
)
def test_a_number_of_5000_digits_deep_json_and_an_endless_text_are_a_sentence(url: str, body: bytes):
    began = time.monotonic()
    status, _, answer = ask(f"{url}{CHAT}", "POST", body, **JSON)
    assert status == 400
    assert len(json.loads(answer)["error"]["message"]) < 400
    assert time.monotonic() - began < 10


def test_a_refused_body_holds_nothing_while_it_is_dropped(url: str):
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(begin(url, CHAT, SETTINGS.max_body, b"{", "text/plain"))
        time.sleep(0.3)
        assert ask(f"{url}{CHAT}", "POST", request(), **JSON)[0] == 200
