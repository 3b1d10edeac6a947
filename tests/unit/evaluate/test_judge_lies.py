"""A judge endpoint that lies: a moment is lost and the judgement is missing; no key and no request goes elsewhere."""

from __future__ import annotations

import gzip
import json
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from judge_server import (
    FIELDS,
    KEY,
    Server,
    replies,
    sends,
    settings,
)

from pllava.benchmarks.judge import make_judge, rubric
from pllava.benchmarks.scoring import score_rows


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def score(*arguments: Any) -> list[dict[str, Any]]:
    return list(score_rows(*arguments))


def completion(content: str = "\"{'score': 5}\"", rest: str = "") -> str:
    return f'{{"choices": [{{"message": {{"content": {content}}}}}]{rest}}}'


def begin(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} so", "Content-Type: application/json", *headers, "", ""]).encode()


GZIP = gzip.compress(b" " * 10**8)
LIES = {
    "no choices": (replies('{"choices": []}'), "no chat completion (application/json)"),
    "choices without a message": (replies('{"choices": [{"message": null}]}'), "no chat completion"),
    "choices of another type": (replies('{"choices": {"0": 1}}'), "no chat completion"),
    "a list": (replies("[1]"), "no chat completion"),
    "a web page": (replies("<html>login</html>", "text/html"), "no chat completion (text/html)"),
    "a web page as an error": (replies("<html>login</html>", "text/html", status=502), "status 502: a web page"),
    "a type with escapes": (replies("x", "text/\x1b[31mred"), "no chat completion (text/ [31mred)"),
    "deep": (replies("[" * 200_000), "no chat completion"),
    "deep as an error": (replies("[" * 200_000, status=500), "status 500"),
    "digits": (replies('{"choices": ' + "9" * 5000 + "}"), "no chat completion"),
    "text that is no text": (replies(completion("[1]")), "without text"),
    "half a character": (replies(completion('"\\ud800 no"')), "no dictionary"),
    "a long reply": (replies(completion('"' + "x" * 10**5 + '"')), "100000 characters"),
    "a huge reply": (replies(completion('"' + "x" * 10**7 + '"')), "more than 1,048,576 bytes"),
    "a huge error": (replies(json.dumps({"error": {"message": "x" * 10**7}}), status=500), "more than 1,048,576 bytes"),
    "an endless reply": (sends(begin(200), b" " * 65536), "more than 1,048,576 bytes"),
    "an endless error": (sends(begin(500), b" " * 65536), "more than 1,048,576 bytes"),
    "an endless refusal": (sends(begin(401), b" " * 65536), "more than 1,048,576 bytes"),
    "a packed reply": (sends(begin(200, "Content-Encoding: gzip") + GZIP), "a compressed reply"),
    "drips of a reply": (sends(begin(200), b" ", 0.1), "no whole reply within 0.5 s"),
    "drips of an error": (sends(begin(500), b" ", 0.1), "no whole reply within 0.5 s"),
    "drips of headers": (sends(b"HTTP/1.1 200 so\r\nX-A: ", b"a", 0.1), "no whole reply within 0.5 s"),
    "a header for each moment": (sends(b"HTTP/1.1 200 so\r\n", b"X-A: a\r\n", 0.1), "no whole reply within 0.5 s"),
    "wait, and wait": (sends(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1), "no whole reply within 0.5 s"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH\r\n"), "Error"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_endpoint_that_lies_costs_a_moment_and_the_judgement(server: Server, lie: str, capfd: Any):
    server.default, reason = LIES[lie]
    judge, began = make_judge(settings(attempts=2)), time.monotonic()
    tracemalloc.start()
    score = judge.score(rubric.TEMPORAL, **FIELDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - began < 6
    assert peak < 80e6  # what the server holds, and a bounded part of it
    assert score.value is None
    assert score.missing
    assert reason in score.missing
    assert len(score.missing) < 400
    assert score.missing.isprintable()
    assert not list(Path(".state").rglob("*.json"))
    output = capfd.readouterr()
    assert KEY not in score.missing + output.out + output.err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_redirect_is_not_followed(server: Server, status: int, scheme: str):
    """The key and the questions go to the address that was named, and to no other."""
    other = Server()
    threading.Thread(target=other.serve_forever, daemon=True).start()
    target = f"{scheme}://localhost:{other.server_address[1]}/v1/chat/completions"
    server.default = replies("", status=status, Location=f"{target}?{KEY}")
    score = make_judge(settings()).score(rubric.ANSWER, **FIELDS)
    other.shutdown()
    other.server_close()
    assert not other.requests
    assert len(server.requests) == 1
    assert score.missing == f"a redirect to {target}?***, which is not followed: check PLLAVA_JUDGE_BASE_URL"


@pytest.mark.parametrize("count", ["-1", "true", "1e3", "9" * 4000, '"7"', "null"])
def test_lies_about_tokens_are_not_counted(server: Server, count: str):
    server.default = replies(completion(rest=f', "usage": {{"prompt_tokens": {count}, "completion_tokens": 3}}'))
    judge = make_judge(settings(price_per_million_tokens=(1.0, 1.0)))
    assert judge.score(rubric.TEMPORAL, **FIELDS).value == 1.0
    assert (judge.usage()["tokens_read"], judge.usage()["tokens_written"], judge.usage()["cost"]) == (0, 3, 0.000003)


def test_another_model_than_was_requested_is_told_once(server: Server, caplog: pytest.LogCaptureFixture):
    judge = make_judge(settings())
    for number in range(3):
        judge.score(rubric.ANSWER, **FIELDS | {"question": str(number)})
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the judge replies as model 'm', requested was 'judge/one:latest': check PLLAVA_JUDGE_MODEL"
    ]


def test_an_error_in_colour_is_plain_text(server: Server):
    server.default = replies(json.dumps({"error": {"message": f"\x1b[2J{KEY}\ud800\x00 gone\u202e"}}), status=400)
    missing = make_judge(settings()).score(rubric.ANSWER, **FIELDS).missing
    assert missing == "status 400: [2J*** gone"
