"""Files of visitors: kept while somebody looks at them, removed after, and nothing else is touched."""

import os
import socket
import time
from contextlib import ExitStack, nullcontext
from urllib.parse import urlsplit

import pytest
from foreign_page import ask, served
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pllava.apps.web.upload_middleware import Arrivals
from pllava.apps.web.uploads import Uploads
from pllava.core.errors import PllavaError


@pytest.fixture
def uploads(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    uploads.open()
    return uploads


def put(uploads, name):
    path = uploads.root / f"hash-of-{name}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(name.encode())
    return path


def test_a_new_clip_removes_the_old_one(uploads):
    first, second = put(uploads, "a.mp4"), put(uploads, "b.mp4")
    uploads.take("anna", first)
    uploads.take("anna", second)
    assert not first.parent.exists()
    assert second.exists()
    uploads.release("anna")
    assert list(uploads.files()) == []


def test_two_visitors_with_one_file_share_it_until_both_have_left(uploads):
    clip = put(uploads, "a.mp4")
    uploads.take("anna", clip)
    uploads.take("bert", clip)
    uploads.release("anna")
    assert clip.exists()
    uploads.discard(clip)
    assert clip.exists()
    uploads.release("bert")
    assert not clip.exists()


def test_a_file_that_two_programs_send_is_there_for_both(uploads):
    clip = put(uploads, "a.mp4")
    uploads.arrived(clip)
    uploads.arrived(clip)
    uploads.take("anna", clip, ours=True)  # a sample of the page with the same bytes
    uploads.answered(clip)
    uploads.release("anna")
    assert clip.is_file(), "the second question is waiting"
    uploads.answered(clip)
    assert list(uploads.files()) == []


def test_a_file_that_comes_in_while_another_visitor_lets_go_of_it_stays(uploads):
    clip = put(uploads, "a.mp4")
    uploads.arrived(clip)
    with uploads.receiving():  # the second one's bytes are there, its arrival is not yet said
        uploads.answered(clip)
        assert clip.exists()
        uploads.arrived(clip)
    assert clip.exists()
    uploads.answered(clip)
    assert list(uploads.files()) == []


def test_what_was_let_go_of_during_an_upload_is_removed_after_it(uploads):
    clip, other = put(uploads, "a.mp4"), put(uploads, "b.mp4")
    uploads.take("anna", clip)
    with uploads.receiving(), uploads.receiving():
        uploads.release("anna")
        uploads.take("bert", other)
        uploads.release("bert")
        uploads.take("carl", other)
        assert clip.exists()
    assert list(uploads.files()) == [other]


def test_nothing_outside_is_taken_or_removed(uploads, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("x")
    link = uploads.root / "link.mp4"
    link.symlink_to(secret)
    for path in (secret, link, uploads.root / "../../secret.mp4", "/etc/passwd", uploads.root):
        with pytest.raises(PllavaError, match="not among the uploaded files"):
            uploads.take("anna", path)
        uploads.discard(path)
    assert secret.exists()


def test_a_sample_is_copied_and_its_copy_removed(uploads, tmp_path):
    ours = tmp_path / "ours.mp4"
    ours.write_bytes(b"x")
    copy = uploads.copy("anna", ours)
    assert copy.is_relative_to(uploads.root)
    assert copy.read_bytes() == b"x"
    uploads.release("anna")
    assert ours.exists()
    assert not copy.exists()


def test_folders_of_ended_processes_are_removed_at_the_next_start(uploads, tmp_path):
    left = uploads.home / str(os.getppid()) / "hash" / "clip.mp4"  # a pid may be someone else's by now
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    Uploads(tmp_path / "uploads").open()
    assert not left.exists()
    assert uploads.root.exists()


def test_what_nobody_took_is_removed_after_a_while_but_not_the_pages_own(uploads):
    poster = put(uploads, "poster.webp")
    uploads.keep_what_is_there()
    forgotten, fresh, clip = put(uploads, "old.mp4"), put(uploads, "new.mp4"), put(uploads, "a.mp4")
    for path in (poster, forgotten):
        os.utime(path, (0, 0))
    uploads.take("anna", clip)
    assert poster.exists()
    assert fresh.exists()
    assert clip.exists()
    assert not forgotten.exists()


def sized(uploads, name, size, age):
    path = put(uploads, name)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("busy", [False, True])
def test_what_nobody_took_has_a_quota_and_the_oldest_goes_first(uploads, monkeypatch, busy):
    monkeypatch.setattr("pllava.apps.web.uploads.QUOTA", 100)
    held = sized(uploads, "held.mp4", 500, 900)
    uploads.take("anna", held)
    files = [sized(uploads, f"{age}.mp4", 40, age) for age in (500, 400, 300, 200)]
    for file in files:
        uploads.arrived(file)
    with uploads.receiving() if busy else nullcontext():  # an upload that never ends keeps nothing
        uploads.tidy()
        assert [file.exists() for file in files] == [False, False, True, True]
        assert held.exists()


def test_what_broken_uploads_left_goes_and_what_is_written_now_stays(uploads, monkeypatch):
    left = uploads.root / "tmpabc"
    left.write_bytes(bytes(300))
    os.utime(left, (time.time() - 5,) * 2)
    with uploads.receiving():
        now = uploads.root / "tmpdef"
        now.write_bytes(b"x")
        uploads.tidy()
        assert (left.exists(), now.exists()) == (False, True)
        monkeypatch.setattr("pllava.apps.web.uploads.ROOM", 1)
        assert not uploads.has_room()
    uploads.tidy()
    assert list(uploads.files()) == []
    assert uploads.has_room()


@pytest.fixture
def service(uploads, monkeypatch):
    """An application that stores uploads in the folder as gradio does, behind `Arrivals`."""

    async def upload(request):
        path = uploads.root / f"tmp{time.monotonic_ns()}"
        with path.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        return JSONResponse([])

    monkeypatch.setattr("pllava.apps.web.upload_middleware.LARGEST", 1000)
    monkeypatch.setattr("pllava.apps.web.upload_middleware.SECONDS", 1.0)
    return Arrivals(Starlette(routes=[Route("/upload", upload, methods=["POST"])]), uploads)


def test_an_upload_has_a_largest_size_with_and_without_a_declared_one(service, uploads):
    client = TestClient(service)
    for content in (bytes(2000), iter([bytes(600), bytes(600)])):
        answer = client.post("/upload", content=content)
        assert (answer.status_code, answer.json()["detail"]) == (413, "the upload is too large")
    assert client.post("/upload", content=b"", headers={"content-length": "9" * 5000}).status_code == 413
    assert service.budget.taken == 0
    assert list(uploads.files()) == []


def test_half_sent_uploads_leave_nothing_and_hold_a_bounded_place(service, uploads):
    def send(connection):
        head = "POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n"
        connection.sendall(head.encode() + bytes(500))

    with served(service) as url:
        where = urlsplit(url)
        with ExitStack() as stack:
            half = [stack.enter_context(socket.create_connection((where.hostname, where.port), 10)) for _ in range(2)]
            for connection in half:
                send(connection)
            time.sleep(0.3)
            status, headers, _ = ask(f"{url}/upload", "POST", bytes(900))
            assert (status, headers["retry-after"]) == (503, "5")
            assert b" 408 " in half[0].recv(1 << 16), "an upload that takes too long"
        time.sleep(0.3)
        assert service.budget.taken == 0
        assert [file for file in uploads.files() if file.parent == uploads.root] == []
        assert ask(f"{url}/upload", "POST", bytes(900))[0] == 200
