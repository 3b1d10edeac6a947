"""No request makes the page fetch a web address, and no body but an upload is large, whatever the content type says."""

from urllib.parse import quote

import pytest
from fastapi import Body, FastAPI, Response, UploadFile
from starlette.testclient import TestClient

from pllava.apps.web.guard import HEADERS, LARGEST_BODY, Guard

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

    @app.get("/{anything:path}")
    def page(anything: str) -> Response:
        return Response("the page", headers={"Content-Security-Policy": "default-src *", "X-Own": "kept"})

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


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": ' * 100 + b"1" + b"}" * 100,
        b'{"data": [' + b"9" * 5000 + b"]}",
        b'{"data": [',
        b"a=b",
        b'--end\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"path": "http://127.0.0.1:9/x.mp4"}\r\n--end--\r\n',
        b"\xff\xfe\x00",
    ],
    ids=["deep lists", "deep objects", "5000 digits", "half", "a form", "a form with an address", "no text"],
)
def test_what_is_no_json_or_deep_is_refused_in_a_sentence(client: TestClient, body: bytes, content_type: str) -> None:
    answer = client.post("/queue/join", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert len(answer.json()["detail"]) < 100


@pytest.mark.parametrize("path", ["http://x/a", "HTTPS://x/a", "  " * 99 + "http://x/a", "ftp://x/a"])
def test_an_address_is_found_at_every_depth(client: TestClient, path: str) -> None:
    body = {"data": [{"a": [[{"b": {"path": path}}]]}]}
    assert client.post("/queue/join", json=body).status_code == 403


def test_a_login_form_passes(client: TestClient) -> None:
    assert client.post("/login", content=b"username=a&password=b").status_code == 405


@pytest.mark.parametrize("scheme", ["http:", "https:"])
@pytest.mark.parametrize("path", ["/gradio_api/file={}//127.0.0.1:9/x", "/file={}//127.0.0.1:9/x", "/gradio_api/proxy={}//127.0.0.1:9/x"])
@pytest.mark.parametrize("quoted", [0, 1, 2], ids=["plain", "quoted", "quoted twice"])
def test_a_path_that_names_a_web_address_is_refused(client: TestClient, path: str, scheme: str, quoted: int) -> None:
    path = path.format(scheme)
    for _ in range(quoted):
        path = quote(path)
    assert client.get(path).status_code == 403


def test_a_path_of_a_file_here_is_let_through(client: TestClient) -> None:
    assert client.get("/gradio_api/file=a%20b.mp4").text == "the page"


@pytest.mark.parametrize("name", HEADERS)
def test_every_response_has_our_security_header_and_no_other_of_the_name(client: TestClient, name: str) -> None:
    assert client.get("/").headers.get_list(name) == [HEADERS[name]]


def test_other_headers_of_a_response_are_kept(client: TestClient) -> None:
    assert client.get("/").headers["X-Own"] == "kept"


@pytest.mark.parametrize(
    ("directive", "sources"),
    [("default-src", "'self'"), ("object-src", "'none'"), ("base-uri", "'self'"), ("form-action", "'self'"), ("frame-ancestors", "'self'")],
)
def test_the_policy_lets_no_other_origin_in(directive: str, sources: str) -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["content-security-policy"].split(";"))
    assert policy[directive] == sources
    assert "http" not in HEADERS["content-security-policy"]
