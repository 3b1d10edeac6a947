"""No request makes the page fetch a web address, and no body but an upload is large, whatever the content type says."""

import pytest
from fastapi import Body, FastAPI, UploadFile
from starlette.testclient import TestClient

from pllava.apps.web.guard import LARGEST_BODY, Guard

ADDRESS = b'{"data": [{"path": "http://127.0.0.1:9/x.mp4"}]}'
TYPES = [
    "application/json",
    "Application/JSON",
    " application/json; charset=utf-8",
    "application/x+json",
    "application/problem+JSON",
    "text/plain",
    "multipart/form-data; boundary=end",
    "",
]


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(strict_content_type=False)

    @app.post("/queue/join")
    @app.post("/run/upload")
    def join(body: dict = Body()) -> dict:  # noqa: B008
        return body

    @app.post("/upload")
    def upload(file: UploadFile) -> int:
        return file.size or 0

    app.add_middleware(Guard)
    return TestClient(app)


@pytest.mark.parametrize("content_type", TYPES)
def test_a_web_address_is_refused_under_every_content_type(client: TestClient, content_type: str) -> None:
    assert client.post("/queue/join", content=ADDRESS, headers={"content-type": content_type}).status_code == 403


@pytest.mark.parametrize("content_type", TYPES)
def test_a_large_body_is_refused_under_every_content_type(client: TestClient, content_type: str) -> None:
    body = b'{"data": "' + b" " * LARGEST_BODY + b'"}'
    assert client.post("/queue/join", content=body, headers={"content-type": content_type}).status_code == 413


def test_a_web_address_is_refused_without_a_content_type_and_with_two(client: TestClient) -> None:
    assert client.post("/queue/join", content=ADDRESS).status_code == 403
    two = [("content-type", "application/json"), ("content-type", "multipart/form-data; boundary=end")]
    assert client.post("/run/upload", content=ADDRESS, headers=two).status_code == 403


@pytest.mark.parametrize("content_type", TYPES[:5])
def test_other_json_reaches_the_application_whole(client: TestClient, content_type: str) -> None:
    answer = client.post("/queue/join", content=b'{"data": ["a question"]}', headers={"content-type": content_type})
    assert (answer.status_code, answer.json()) == (200, {"data": ["a question"]})


def test_an_upload_may_be_larger(client: TestClient) -> None:
    answer = client.post("/upload", files={"file": ("a.mp4", b" " * (2 * LARGEST_BODY))})
    assert (answer.status_code, answer.json()) == (200, 2 * LARGEST_BODY)


def test_a_body_nested_too_deeply_is_refused(client: TestClient) -> None:
    """What cannot be looked through may name an address."""
    body = b'{"data": ' + b"[" * 100_000 + b'{"path": "http://127.0.0.1:9/x"}' + b"]" * 100_000 + b"}"
    assert client.post("/queue/join", content=body, headers={"content-type": "application/json"}).status_code == 403
