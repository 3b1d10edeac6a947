"""A chat completion request, checked: `parse(body, settings)` returns a `ChatRequest` or raises an ApiError."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief  # a client may send values of any size
from typing import Any
from urllib.parse import unquote

from pllava.apps.serve.errors import bad
from pllava.apps.serve.settings import ServeSettings

UNSUPPORTED = ("tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs", "logit_bias", "audio", "prediction")
MOST_STOPS = 4
LONGEST_STOP = 256  # characters
MOST_FRAMES = 1024  # of a video that the client sends frame by frame
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")  # the first bytes of a JPEG, PNG or WebP
STANDARD = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet of base64 to the standard one
DEFAULT_TOKENS = 256


@dataclass(frozen=True)
class Media:
    """The video of a request: the bytes of a file, the bytes of each frame, the id of an uploaded file, or where `Files` put the bytes."""

    data: bytes | None = None
    file_id: str | None = None
    frames: tuple[bytes, ...] = ()
    path: Path | None = None


@dataclass(frozen=True)
class ChatRequest:
    """history: earlier (question, answer) pairs, oldest first."""

    model: str
    question: str
    history: tuple[tuple[str, str], ...]
    system: str | None
    media: Media
    stream: bool
    include_usage: bool
    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None


def parse(body: Any, settings: ServeSettings) -> ChatRequest:
    """body: the decoded JSON. Raises ApiError 400 with the name of the wrong parameter."""
    if not isinstance(body, dict):
        raise bad("the body must be a JSON object")
    for name in UNSUPPORTED:
        if body.get(name):
            raise bad(f"{name} is not supported by this server", name, "unsupported_parameter")
    for name in ("presence_penalty", "frequency_penalty"):
        if body.get(name):
            raise bad(f"{name} is not supported by this server; leave it at 0", name, "unsupported_parameter")
    if body.get("n") not in (None, 1):
        raise bad(f"n is {brief(body['n'])}; this server gives one answer a request (n=1)", "n", "unsupported_value")
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise bad("response_format: only text is supported", "response_format", "unsupported_value")
    model = body.get("model")
    if not isinstance(model, str):
        raise bad("model must be a string: a name that GET /v1/models lists", "model")
    system, history, question, media = _conversation(body.get("messages"))
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise bad("stream_options must be an object", "stream_options")
    if options and not body.get("stream"):
        raise bad("stream_options need stream: true", "stream_options")
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise bad(f"seed is {brief(seed)}; an integer is needed", "seed")
    return ChatRequest(
        model=model,
        question=question,
        history=history,
        system=system,
        media=media,
        stream=_flag(body, "stream"),
        include_usage=bool(options.get("include_usage")),
        max_new_tokens=_tokens(body, settings),
        temperature=_number(body, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 1e-9, 1.0),
        stop=_stop(body.get("stop")),
        seed=None if seed is None else seed % 2**63,
    )


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise bad(f"{name} is {brief(value)}; true or false is needed", name)
    return bool(value)


def _tokens(body: dict[str, Any], settings: ServeSettings) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= settings.max_new_tokens:
            raise bad(f"{name} is {brief(value)}; an integer from 1 to {settings.max_new_tokens} is needed", name, "invalid_value")
        return value
    return min(DEFAULT_TOKENS, settings.max_new_tokens)


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise bad(f"{name} is {brief(value)}; a number from {0 if low < 1e-6 else low:g} to {high:g} is needed", name, "invalid_value")
    return float(value)


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise bad(f"stop must be a string or a list of at most {MOST_STOPS} strings, none of them empty", "stop")
    if (longest := max(map(len, stops), default=0)) > LONGEST_STOP:
        raise bad(f"a stop string has {longest:,} characters; at most {LONGEST_STOP} are compared", "stop")
    return tuple(stops)


def _conversation(messages: Any) -> tuple[str | None, tuple[tuple[str, str], ...], str, Media]:
    """System text, earlier (question, answer) pairs, the question, and the one video."""
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise bad("messages must be a list of objects with role and content, the last of role user", "messages")
    system = None
    if messages[0].get("role") in ("system", "developer"):
        system, media = _content(messages[0], "messages[0]")
        if media:
            raise bad("messages[0]: the video belongs in the first user message", "messages")
        messages = messages[1:]
    roles = [message.get("role") for message in messages]
    if len(roles) % 2 == 0 or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise bad(f"messages have the roles {brief(roles)}; user and assistant must take turns, user first and last", "messages")
    texts, videos = [], []
    for number, message in enumerate(messages):
        text, media = _content(message, f"messages[{number}]")
        if media and (number or message["role"] != "user"):
            raise bad(f"messages[{number}]: the video belongs in the first user message, and the conversation is about it", "messages")
        texts.append(text)
        videos += media
    if len(videos) != 1:
        raise bad(
            f"the first user message holds {len(videos)} videos; one is needed: a part of type video_url with a data: URL, or of type "
            "file with the id of an uploaded file",
            "messages",
        )
    if not texts[-1].strip():
        raise bad("the last message asks nothing: its text is empty", "messages")
    pairs = zip(texts[:-1:2], texts[1::2], strict=True)
    return system, tuple(pairs), texts[-1], videos[0]


def _content(message: dict[str, Any], where: str) -> tuple[str, list[Media]]:
    """Text and videos of a message; several pictures are the frames of one video. where: the message, for errors."""
    content = message.get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise bad(f"{where}: content must be a string or a list of parts", "messages")
    texts, media, pictures = [], [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if isinstance(kind, str) else None
        if kind == "text" and isinstance(value, str):
            texts.append(value)
        elif kind == "image_url":
            pictures.append(_url(value.get("url") if isinstance(value, dict) else value, where))
            if len(pictures) > MOST_FRAMES:
                raise bad(f"{where}: more than {MOST_FRAMES} pictures", "messages")
        elif kind in ("video_url", "video"):
            media.append(_url(value.get("url") if isinstance(value, dict) else value, where))
        elif kind in ("input_video", "file") and isinstance(value, dict):
            media.append(_file(value, where))
        else:
            known = "text, video_url, video, image_url, input_video, file"
            raise bad(f"{where}: a part of type {brief(kind)} is not understood. Known: {known}", "messages")
    if len(pictures) > 1:
        pictures = [_frames([one.data for one in pictures], where)]
    return "\n".join(texts), media + pictures


def _file(value: dict[str, Any], where: str) -> Media:
    """From {"file_id": id}, {"data": base64} or {"file_data": data URL or base64}. A list of frames may stand in place of the data."""
    if isinstance(value.get("file_id"), str):
        return Media(file_id=value["file_id"])
    data = next((value[name] for name in ("data", "file_data", "url", "frames") if value.get(name)), None)
    if isinstance(data, list):
        return _frames([_file({"data": one}, where).data for one in _bounded(data, where)], where)
    if isinstance(data, str) and ":" in data[:64]:  # no base64 holds a colon
        return _url(data, where)
    return Media(data=_base64(data, where))


def _bounded(frames: list[Any], where: str) -> list[str]:
    """The data URL or base64 of each frame. Raises ApiError for none, or more than MOST_FRAMES."""
    if not 1 <= len(frames) <= MOST_FRAMES:
        raise bad(f"{where}: {len(frames)} frames; a list of 1 to {MOST_FRAMES} is needed", "messages")
    frames = [frame.get("url") if isinstance(frame, dict) else frame for frame in frames]
    for number, frame in enumerate(frames, 1):
        if not isinstance(frame, str):
            raise bad(f"{where}: frame {number} is {type(frame).__name__}; a data: URL is needed", "messages")
    return frames


def _frames(frames: list[bytes | None], where: str) -> Media:
    """A video of these pictures, in this order."""
    for number, frame in enumerate(frames, 1):
        if frame is None or not frame.startswith(PICTURES):
            raise bad(f"{where}: frame {number} is no JPEG, PNG or WebP picture; a video is sent alone", "messages")
    return Media(frames=tuple(frame for frame in frames if frame is not None))


def _url(url: Any, where: str) -> Media:
    """The video of a base64 data: URL, or of a list of them, one a frame."""
    if isinstance(url, list):
        return _frames([_url(one, where).data for one in _bounded(url, where)], where)
    if not isinstance(url, str) or not url[:5].lower() == "data:":
        raise bad(
            f"{where}: the address is no data: URL. This server fetches nothing: send the video as data:video/mp4;base64,... or upload "
            "it to /v1/files",
            "messages",
            "url_not_supported",
        )
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise bad(f"{where}: the data: URL must be base64: data:video/mp4;base64,...", "messages")
    if "%" in data:  # a URL may escape "+", "/" and "="
        data = unquote(data)
    if "," in data:  # data:video/jpeg;base64,FRAME,FRAME,...
        return _frames([_base64(frame, where) for frame in _bounded(data.split(","), where)], where)
    return Media(data=_base64(data, where))


def _base64(data: Any, where: str) -> bytes:
    """Decoded bytes. The text may have either alphabet of base64, line breaks, and no padding."""
    try:
        plain = b"".join(line.strip() for line in data.encode("ascii").splitlines()).translate(STANDARD).rstrip(b"=")
        decoded = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError, AttributeError) as error:  # UnicodeEncodeError is a ValueError
        raise bad(f"{where}: the video is no base64: {error}", "messages") from None
    if not decoded:
        raise bad(f"{where}: the video is empty", "messages")
    return decoded
