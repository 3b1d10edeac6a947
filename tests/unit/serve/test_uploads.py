"""What is uploaded is read in another process, is gone with the server that took it, and comes from no web page."""

from __future__ import annotations

import io
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from foreign_page import ask, gets_nothing, served
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import pllava
from pllava.apps.serve.answering import Answerer
from pllava.apps.serve.errors import ApiError
from pllava.apps.serve.files import Files
from pllava.apps.serve.metrics import Metrics
from pllava.apps.serve.protocol import Media
from pllava.apps.serve.server import Guard, build_app
from pllava.apps.serve.settings import ServeSettings
from pllava.chat import VideoChat
from pllava.video.readers import Readers


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_an_upload_that_kills_its_reader_is_refused_and_the_next_is_taken(reference: Path, slow_gif: Path, signal_readers: Any):
    clip = (reference / "video" / "clip_short.mp4").read_bytes()
    with Readers(1) as readers:
        files = Files(ServeSettings(), readers)
        first = files.add(io.BytesIO(clip), "a.mp4")
        sent = io.BytesIO(slow_gif.read_bytes())
        slow_gif.unlink()
        with (
            signal_readers(lambda file: file.parent == files.folder, signal.SIGKILL),
            pytest.raises(ApiError, match=r"^the video: the decoder died"),
        ):
            files.add(sent, "b.gif")
        second = files.add(io.BytesIO(clip), "c.mp4")
    assert files.all() == [first, second]
    assert {path.name for path in files.folder.iterdir()} == {first.id, second.id}


def jpeg(level: int, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_frames_of_a_request_are_a_clip_in_their_order_and_leave_nothing(tiny_model: Any, tiny_processor: Any):
    chat = VideoChat(tiny_model, tiny_processor, template="tiny")
    with Readers(1) as readers:
        chat.readers = readers
        files = Files(ServeSettings(max_bytes=100_000), readers)
        answerer = Answerer(chat, files, Metrics())
        media = Media(frames=tuple(jpeg(level) for level in range(0, 240, 20)))
        path = files.temporary(media)
        levels = [frame.mean() for frame in readers.read(path, 6).frames]
        assert levels == sorted(set(levels)), "in their order"
        files.discard(path)
        video = answerer._watch(chat, media, threading.Event())
        assert video.ask("What?", max_new_tokens=2).token_ids
        with pytest.raises(ApiError, match=r"^the video/00002\.jpg: size differs"):
            answerer._watch(chat, Media(frames=(jpeg(1), jpeg(2, (32, 32)))), threading.Event())
        with pytest.raises(ApiError, match="larger than") as large:
            answerer._watch(chat, Media(frames=(jpeg(1) + bytes(60_000), jpeg(2) + bytes(60_000))), threading.Event())
        assert large.value.status == 413
        assert not list(files.folder.iterdir())


def test_what_a_killed_server_left_is_removed_at_the_next_start(folder: Path):
    left, others = folder / "pllava-serve-x1" / "file-1", folder / "other" / "file-1"
    for path in (left, others):
        path.parent.mkdir()
        path.write_bytes(b"x")
    with Readers(1) as readers:
        first, files = Files(ServeSettings(), readers), Files(ServeSettings(), readers)
    assert not left.parent.exists()
    assert others.exists()
    assert first.folder.is_dir()
    assert files.folder.stat().st_mode & 0o777 == 0o700
    files.close()
    assert not files.folder.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("key", [None, "secret"])
def test_a_page_of_another_origin_posts_nothing_where_no_key_is_needed(headers: dict[str, str], status: int, key: str | None):
    app = Starlette(routes=[Route("/v1/files", lambda _: PlainTextResponse("taken"), methods=["POST"])])
    client = TestClient(Guard(app, ServeSettings(api_key=key), Metrics()), base_url="http://localhost:8000")
    sent = client.post("/v1/files", headers=headers | {"Authorization": "Bearer secret"})
    assert sent.status_code == (status if key is None else 200)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer secret", 200),
        ("bearer  secret", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer secre", 401),
        ("Bearer secrets", 401),
        ("Basic secret", 401),
        ("secret", 401),
    ],
)
def test_a_server_with_a_key_answers_to_the_whole_key_alone(authorization: str | None, status: int):
    app = Starlette(routes=[Route("/v1/models", lambda _: PlainTextResponse("tiny"))])
    client = TestClient(Guard(app, ServeSettings(api_key="secret"), Metrics()), base_url="http://localhost:8000")
    headers = {} if authorization is None else {"Authorization": authorization}
    assert client.get("/v1/models", headers=headers).status_code == status


def test_a_page_of_another_origin_gets_nothing(tiny_model: Any, tiny_processor: Any):
    chat = pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")
    with served(build_app(chat, ["tiny"], ServeSettings())) as url:
        gets_nothing(url, ["/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/files"])
        assert ask(f"{url}/v1/models", Origin=url)[0] == 200
    with served(build_app(chat, ["tiny"], ServeSettings(api_key="secret"))) as url:
        gets_nothing(url, ["/health"])
        assert ask(f"{url}/health", Origin=url)[0] == 200
        assert ask(f"{url}/v1/models", Origin=url)[0] == 401
