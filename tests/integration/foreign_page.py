"""A page of another origin, in a browser on this machine, that tries to use a service on loopback."""

import http.client
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

EVIL = "https://evil.example"
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json", None)


@contextmanager
def served(app, **options):
    """The address of an application that is served by a thread of ours. options: of uvicorn."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def ask(url, method="GET", body=None, **headers):
    """(status, headers, body); `_` in the names of headers is `-`."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        connection.request(method, where.path or "/", body, given)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read(1 << 16)
    finally:
        connection.close()


def attempts(url):
    """(what is tried, arguments of `ask`): what browsers send for a page of another site or port, also where its name is pointed at us."""
    port = urlsplit(url).port
    others = (f"http://127.0.0.1:{port + 1}", f"http://localhost:{port + 1}", f"http://evil.example:{port}")
    for origin in (EVIL, "null", *others):
        site = "same-site" if "127.0.0.1" in origin or "localhost" in origin else "cross-site"
        for told in ({}, {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}):
            wanted = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
            yield f"preflight of {origin}", {"method": "OPTIONS", "Origin": origin, **wanted, **told}
            yield f"fetch of {origin}", {"Origin": origin, **told}
            for kind in SIMPLE:
                yield f"post of {origin}, {kind}", {"method": "POST", "body": b"{}", "Origin": origin, "Content_Type": kind, **told}
            for method in ("PUT", "PATCH", "DELETE"):
                yield f"{method} of {origin}", {"method": method, "body": b"{}", "Origin": origin, **told}
    for part in ("script", "image", "iframe", "video", "empty"):
        mode = "navigate" if part == "iframe" else "no-cors"
        yield f"{part} of a page", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": part}
    form = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document", "Content_Type": SIMPLE[1]}
    yield "form of a page", {"method": "POST", "body": b"a=b", **form}
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0"):
        for host in (name, f"{name}:{port}"):
            rebound = {"Host": host, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
            yield f"fetch by {host}", rebound
            yield f"page of {host}", {"Host": host}
            yield f"post by {host}", {"method": "POST", "body": b"{}", "Origin": f"http://{host}", "Content_Type": SIMPLE[3], **rebound}


def handshakes(url):
    """Headers of WebSockets that a foreign page opens."""
    port = urlsplit(url).port
    socket = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec_WebSocket_Version": "13",
    }
    for headers in ({"Origin": EVIL}, {"Origin": "null"}, {"Origin": f"http://localhost:{port + 1}"}, {"Host": f"evil.example:{port}"}):
        for protocol in (None, "prefect"):
            yield socket | headers | {"Sec_WebSocket_Protocol": protocol}


def gets_nothing(url, paths, sockets=("/",), **login):
    """Asserts that no attempt is answered, nor given leave; `login`: headers that a browser would add."""
    for path in paths:
        for name, headers in attempts(url):
            status, answered, body = ask(f"{url}{path}", **(headers | login))
            assert status in (403, 421), f"{path}: {name}: {status} {body[:200]!r}"
            assert not [header for header in answered if header.startswith("access-control-")], f"{path}: {name}"
            assert len(body) < 200, f"{path}: {name}: {body!r}"
    for path in sockets:
        for headers in handshakes(url):
            assert ask(f"{url}{path}", **headers)[0] in (403, 421), f"{path}: {headers}"
