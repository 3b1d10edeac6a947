"""A request is understood as OpenAI's clients mean it, or refused with what is wrong and where."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from pllava.apps.serve.errors import ApiError
from pllava.apps.serve.protocol import MOST_FRAMES, Media, parse
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


BYTES = bytes(range(256)) * 3  # its base64 holds + and /, and takes no padding; one byte less takes one, two less take two


def spelled(data: bytes) -> dict[str, str]:
    plain = base64.b64encode(data).decode()
    url_safe = base64.urlsafe_b64encode(data).decode()
    lines = [plain[at : at + 76] for at in range(0, len(plain), 76)]
    return {
        "plain": plain,
        "wrapped": "\n".join(lines),
        "wrapped as in mail": "\r\n".join(lines) + "\r\n",
        "wrapped and indented": "\n" + "".join(f"  {line} \n" for line in lines),
        "url-safe": url_safe,
        "url-safe without padding": url_safe.rstrip("="),
        "without padding": plain.rstrip("="),
        "without padding, wrapped": "\n".join(lines).rstrip("="),
    }


@pytest.mark.parametrize("spelling", spelled(b"x"))
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_every_spelling_of_base64_is_the_same_bytes(spelling: str, cut: int):
    data = BYTES[: len(BYTES) - cut]
    text = spelled(data)[spelling]
    for part in (
        {"type": "input_video", "input_video": {"data": text}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{text}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{quote(text)}"}},
        {"type": "file", "file": {"file_data": text}},
    ):
        assert parse(body(part), SETTINGS).media == Media(data=data)


@pytest.mark.parametrize("text", ["QUJD REVG", "QUJD=REVG", "QUJDR", "QUJD?", "QUJDä", "=", 7, {"a": 1}])
def test_what_is_no_base64_is_refused(text: Any):
    with pytest.raises(ApiError, match=r"no base64|empty"):
        parse(body({"type": "input_video", "input_video": {"data": text}}), SETTINGS)


FRAMES = [b"\xff\xd8\xff" + bytes([number]) for number in range(3)]
CODED = [base64.b64encode(frame).decode() for frame in FRAMES]
URLS = [f"data:image/jpeg;base64,{coded}" for coded in CODED]


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "image_url", "image_url": {"url": url}} for url in URLS],
        [{"type": "video_url", "video_url": {"url": URLS}}],
        [{"type": "video_url", "video_url": URLS}],
        [{"type": "video", "video": URLS}],
        [{"type": "video", "video": [{"url": url} for url in URLS]}],
        [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{','.join(CODED)}"}}],
        [{"type": "input_video", "input_video": {"data": CODED, "format": "jpeg"}}],
        [{"type": "input_video", "input_video": {"frames": URLS}}],
    ],
)
def test_ways_to_send_frames(parts: list[dict[str, Any]]):
    assert parse(body(*parts), SETTINGS).media == Media(frames=tuple(FRAMES))


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "video", "video": [URLS[0], f"data:video/mp4;base64,{DATA}"]}, "frame 2 is no JPEG"),
        ({"type": "video", "video": [URLS[0], "https://example.com/1.jpg"]}, "fetches nothing"),
        ({"type": "video", "video": []}, "0 frames"),
        ({"type": "video", "video": [[URLS[0], URLS[1]]]}, "frame 1 is list"),
        ({"type": "video", "video": URLS[:1] * (MOST_FRAMES + 1)}, f"a list of 1 to {MOST_FRAMES}"),
        ({"type": "video_url", "video_url": f"data:video/jpeg;base64,{','.join(CODED * MOST_FRAMES)}"}, f"a list of 1 to {MOST_FRAMES}"),
        ({"type": "input_video", "input_video": {"data": [7]}}, "frame 1 is int"),
    ],
)
def test_frames_that_are_none(part: dict[str, Any], why: str):
    with pytest.raises(ApiError, match=why):
        parse(body(part), SETTINGS)


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
    assert asked.include_usage
    assert asked.seed is not None
    assert asked.seed >= 0


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
    assert refused.value.status == 400
    assert why in refused.value.message
    assert set(refused.value.body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("url", ["https://example.com/a.mp4", "http://127.0.0.1/a", "file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""])
def test_nothing_is_fetched(url: str):
    with pytest.raises(ApiError, match="fetches nothing"):
        parse(body({"type": "video_url", "video_url": {"url": url}}), SETTINGS)


@pytest.mark.parametrize("url", ["data:video/mp4,abc", "data:video/mp4;base64", "data:video/mp4;base64,??", "data:;base64,"])
def test_data_that_is_none(url: str):
    with pytest.raises(ApiError):
        parse(body({"type": "video_url", "video_url": {"url": url}}), SETTINGS)


def test_a_host_that_other_machines_reach_needs_a_key():
    with pytest.raises(PllavaError, match="PLLAVA_API_KEY"):
        ServeSettings(host="0.0.0.0")
    assert ServeSettings(host="0.0.0.0", api_key="secret").host == "0.0.0.0"


@pytest.mark.parametrize(("host", "loopback"), [("::1", True), ("127.8.0.1", True), ("localhost", True), ("example.com", False)])
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool):
    assert is_loopback(host) == loopback
