"""Own data as chat messages: `turns_of([{"role": "user", "content": "What happens?"}, {"role": "assistant", "content": "A dog runs."}])`.

The row names its clip as in VideoChat2-IT: `{"video": "clips/1.mp4", "messages": [...], "start"?, "end"?}`. The content of a message is
text, or a list of `{"type": "text", "text": ...}` and `{"type": "video" | "image"}` parts. A video or image part stands for the clip, and
so does a tag `<video>` or `<image>` at the beginning or the end of the first question. The template decides where the clip goes. Messages
of ShareGPT, `{"from": "human" | "gpt", "value": ...}`, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from reprlib import repr as short
from typing import Any

ROLES = ("system", "user", "assistant")
OTHER_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # of ShareGPT, and of Gemma's trainers
TAG = re.compile(r"\A\s*<(?:video|image)>\s*|\s*<(?:video|image)>\s*\Z", re.IGNORECASE)


def turns_of(messages: Any, wrong: Callable[..., None], key: str = "messages") -> list[dict[str, str]]:
    """Turns `{"i", "q", "a"}` of a conversation. Problems go to `wrong`; [] when the messages cannot be read.

    A system message becomes the instruction `i`. An answer without a question is a caption: its `q` is empty.
    """
    if not isinstance(messages, list) or not messages:
        wrong(f"{key} is {'empty' if messages == [] else type(messages).__name__}, a list of user and assistant messages is needed")
        return []
    turns: list[dict[str, str]] = []
    instruction, question = "", None
    for number, message in enumerate(messages):
        where = f"{key}[{number}]"
        role = message.get("role", message.get("from")) if isinstance(message, dict) else None
        role = OTHER_ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else role
        if role not in ROLES:
            wrong(f"{where} has role {short(role)}, one of {', '.join(ROLES)} is needed")
            return []
        text = _text(message.get("content", message.get("value")), where, wrong)
        if text is None:
            return []
        if role == "system":
            if number:
                wrong(f"{where} is a system message, only the first message can be one")
            instruction = text
        elif role == "user":
            if question is not None:
                wrong(f"{where} is a second user message without an answer between")
            question = text
        else:
            if question is None and turns:
                wrong(f"{where} answers no question; only a caption, the first message, can do that")
            turns.append({"i": "" if turns else instruction, "q": question or "", "a": text})
            question = None
    if question is not None:
        wrong("the last message is the user's, nothing answers it")
    return turns


def clips_in(messages: Any) -> Iterator[Any]:
    """The paths in video and image parts, such as `{"type": "video", "video": "clips/1.mp4"}`; None for a part without a path."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    for part in parts:
        if part.get("type") in ("video", "image"):
            yield next((part[name] for name in (part["type"], "path", "url") if part.get(name)), None)


def without_tag(question: str) -> str:
    """The first question without the tag for the clip. A tag inside the text stays; `text_checks` then refuses the row."""
    return TAG.sub("", question, count=1)


def _text(content: Any, where: str, wrong: Callable[..., None]) -> str | None:
    """The text of a message. None when the content is malformed; `wrong` then gets the reason."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        wrong(f"{where} has content of type {type(content).__name__}, text or a list of parts is needed")
        return None
    unknown = [part.get("type") for part in content if part.get("type") not in ("text", "video", "image")]
    if unknown or not all(isinstance(part.get("text"), str) for part in content if part["type"] == "text"):
        wrong(f"{where} has a part that is neither text nor the clip: {short(unknown[0]) if unknown else 'text without words'}")
        return None
    return "\n".join(part["text"] for part in content if part["type"] == "text")
