"""Who may call a service on loopback: programs, its own pages, a person who follows a link; no page of another origin."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from pllava.apps.web.origin import LOCAL, OriginGuard, called_by

OWN, TALK = "http://127.0.0.1:4200", "ws://127.0.0.1:4200/talk"
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def talk(websocket):
    await websocket.accept()
    await websocket.send_text("secret")
    await websocket.close()


def visitor(hosts=LOCAL, url=OWN):
    routes = [Route("/", lambda _: PlainTextResponse("secret"), methods=["GET", "POST", "OPTIONS"]), WebSocketRoute("/talk", talk)]
    return TestClient(OriginGuard(Starlette(routes=routes), hosts), base_url=url)


@pytest.mark.parametrize("url", [OWN, "http://localhost:4200", "http://[::1]:4200", "http://127.0.0.1", "http://LOCALHOST:9"])
def test_a_program_and_our_own_page_are_answered_by_every_name_of_this_machine(url):
    ours = {"Origin": url.lower(), "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    client = visitor(url=url)
    assert client.get("/").text == client.post("/", headers=ours).text == client.get("/", headers=ours).text == "secret"
    with client.websocket_connect(f"ws{url[4:]}/talk", headers={"Origin": url.lower()}) as socket:
        assert socket.receive_text() == "secret"


@pytest.mark.parametrize("headers", [LINK, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}])
def test_a_link_that_leads_here_opens_the_page(headers):
    assert visitor().get("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:4201"},
        {"Origin": "http://localhost:4200"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "127.0.0.1:4200"},
        {"Origin": f"{OWN}, https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        LINK | {"Sec-Fetch-Dest": "iframe"},
    ],
)
@pytest.mark.parametrize("hosts", [LOCAL, None])
def test_a_page_of_another_origin_is_not(headers, hosts):
    client = visitor(hosts)
    for method in ("GET", "POST", "OPTIONS"):
        answer = client.request(method, "/", headers=headers)
        assert answer.status_code == 403, method
        assert "secret" not in answer.text, method
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(TALK, headers=headers):
        pass


def test_a_form_that_leads_here_is_not():
    assert visitor().post("/", headers=LINK).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:4200@evil.example",
        "localhost.",
        "",
    ],
)
def test_another_name_for_this_machine_is_not_answered(host):
    client = visitor()
    assert client.get("/", headers={"Host": host}).status_code == 421
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(TALK, headers={"Host": host}):
        pass


@pytest.mark.parametrize("names", [[], ["127.0.0.1:4200", "evil.example"], ["evil.example", "127.0.0.1:4200"], ["127.0.0.1:4200"] * 2])
def test_a_request_with_no_host_or_two_is_not_answered(names):
    headers = [(b"host", name.encode()) for name in names]
    assert not called_by({"type": "http", "headers": headers}, LOCAL)


def test_beyond_this_machine_our_own_page_has_the_name_in_the_browser():
    client = visitor(None, "http://10.0.0.7:7860")
    assert client.post("/", headers={"Origin": "http://10.0.0.7:7860"}).status_code == 200
    assert client.post("/", headers={"Origin": "https://clips.example", "X-Forwarded-Host": "clips.example"}).status_code == 200
    assert visitor().post("/", headers={"Origin": "https://clips.example", "X-Forwarded-Host": "clips.example"}).status_code == 403
