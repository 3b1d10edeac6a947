"""A request is understood as OpenAI's clients mean it, or refused with what is wrong and where."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pllava.apps.serve.errors import ApiError
from pllava.apps.serve.protocol import Media, parse
from pllava.apps.serve.settings import ServeSettings, is_loopback
from pllava.core.errors import PllavaError

SETTINGS = ServeSettings()
DATA = base64.b64encode(b"frames").decode()
VIDEO = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}}


def body(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [*content, {"type": "text", "text": "Who?"}]}]} | more


@pytest.mark.parametrize(
    "part",
    [
        VIDEO,
        {"type": "video_url", "video_url": VIDEO["video_url"]["url"]},  # type: ignore[index]
        {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{DATA}"}},
        {"type": "input_video", "input_video": {"data": DATA, "format": "mp4"}},
        {"type": "file", "file": {"filename": "a.mp4", "file_data": f"data:video/mp4;base64,{DATA}"}},
    ],
)
def test_ways_to_send_a_video(part: dict[str, Any]):
    assert parse(body(part), SETTINGS).media == Media(data=b"frames")


def test_an_uploaded_file():
    assert parse(body({"type": "file", "file": {"file_id": "file-1"}}), SETTINGS).media == Media(file_id="file-1")
    assert parse(body({"type": "input_video", "input_video": {"file_id": "file-1"}}), SETTINGS).media == Media(file_id="file-1")


def test_a_conversation():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [VIDEO, {"type": "text", "text": "Who?"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": "A man."},
        {"role": "user", "content": "And then?"},
    ]
    asked = parse({"model": "m", "messages": messages}, SETTINGS)
    assert (asked.system, asked.history, asked.question) == ("Be brief.", (("Who?\nWhere?", "A man."),), "And then?")
    assert (asked.temperature, asked.top_p, asked.stop, asked.seed, asked.stream) == (0.0, 1.0, (), None, False)


def test_options():
    more = {"max_completion_tokens": 5, "max_tokens": 7, "temperature": 1, "top_p": 0.5, "stop": "x", "seed": -1, "user": "me", "n": 1}
    asked = parse(body(VIDEO, **more, stream=True, stream_options={"include_usage": True}), SETTINGS)
    assert (asked.max_new_tokens, asked.temperature, asked.top_p, asked.stop, asked.stream) == (5, 1.0, 0.5, ("x",), True)
    assert asked.include_usage and asked.seed is not None and asked.seed >= 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n": 2}, "n is 2"),
        ({"tools": [{}]}, "tools is not supported"),
        ({"max_tokens": 0}, "from 1 to 1024"),
        ({"max_tokens": 5000}, "from 1 to 1024"),
        ({"temperature": 3}, "from 0 to 2"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a"] * 5}, "at most 4"),
        ({"stop": [""]}, "none of them empty"),
        ({"seed": "one"}, "integer"),
        ({"stream": "yes"}, "true or false"),
        ({"stream_options": {"include_usage": True}}, "need stream"),
        ({"frequency_penalty": 1}, "leave it at 0"),
        ({"response_format": {"type": "json_object"}}, "only text"),
        ({"model": None}, "model must be"),
        ({"messages": []}, "messages must be"),
        ({"messages": "Who?"}, "messages must be"),
        ({"messages": [{"role": "user", "content": "Who?"}]}, "holds 0 videos"),
        ({"messages": [{"role": "user", "content": [VIDEO, VIDEO, {"type": "text", "text": "Who?"}]}]}, "holds 2 videos"),
        ({"messages": [{"role": "user", "content": [VIDEO]}]}, "its text is empty"),
        ({"messages": [{"role": "assistant", "content": "I?"}]}, "take turns"),
        ({"messages": [{"role": "system", "content": "x"}]}, "take turns"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "not understood"),
    ],
)
def test_what_is_refused(change: dict[str, Any], why: str):
    with pytest.raises(ApiError) as refused:
        parse(body(VIDEO) | change, SETTINGS)
    assert refused.value.status == 400 and why in refused.value.message
    assert set(refused.value.body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("url", ["https://example.com/a.mp4", "http://127.0.0.1/a", "file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""])
def test_nothing_is_fetched(url: str):
    with pytest.raises(ApiError, match="fetches nothing"):
        parse(body({"type": "video_url", "video_url": {"url": url}}), SETTINGS)


@pytest.mark.parametrize("url", ["data:video/mp4,abc", "data:video/mp4;base64", "data:video/mp4;base64,??", "data:;base64,"])
def test_data_that_is_none(url: str):
    with pytest.raises(ApiError):
        parse(body({"type": "video_url", "video_url": {"url": url}}), SETTINGS)


def test_an_open_host_needs_a_key():
    with pytest.raises(PllavaError, match="PLLAVA_API_KEY"):
        ServeSettings(host="0.0.0.0")
    assert ServeSettings(host="0.0.0.0", api_key="secret").host == "0.0.0.0"
    assert is_loopback("::1") and is_loopback("127.8.0.1") and not is_loopback("example.com")
