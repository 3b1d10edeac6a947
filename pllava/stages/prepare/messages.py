"""Own data as chat messages: `turns_of([{"role": "user", "content": "What happens?"}, {"role": "assistant", "content": "A dog runs."}])`.

The row around them names the clip as in VideoChat2-IT: `{"video": "clips/1.mp4", "messages": [...], "start"?, "end"?}`. A content is text,
or a list of `{"type": "text", "text": ...}` and `{"type": "video" | "image"}`. The latter stands for the clip, and so does a tag, `<video>`
or `<image>`, at the beginning or the end of the first question: the template puts the clip where it belongs. ShareGPT's
`{"from": "human" | "gpt", "value": ...}` is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

ROLES = ("system", "user", "assistant")
OTHER_ROLES = {"human": "user", "gpt": "assistant"}  # of ShareGPT, which LLaVA took over
TAG = re.compile(r"\A\s*<(?:video|image)>\s*|\s*<(?:video|image)>\s*\Z")


def turns_of(messages: Any, wrong: Callable[..., None], key: str = "messages") -> list[dict[str, str]]:
    """Turns `{"i", "q", "a"}`: a system message is the instruction, an answer without a question a caption. Problems go to `wrong`."""
    if not isinstance(messages, list) or not messages:
        wrong(f"{key} is {'empty' if messages == [] else type(messages).__name__}, a list of user and assistant messages is needed")
        return []
    turns: list[dict[str, str]] = []
    instruction, question = "", None
    for number, message in enumerate(messages):
        where = f"{key}[{number}]"
        role = message.get("role", message.get("from")) if isinstance(message, dict) else None
        role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            wrong(f"{where} has role {role!r}, one of {', '.join(ROLES)} is needed")
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
    """Paths that parts of a content name, as in `{"type": "video", "video": "clips/1.mp4"}`."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    for part in parts:
        if part.get("type") in ("video", "image"):
            yield next((part[name] for name in (part["type"], "path", "url") if part.get(name)), None)


def without_tag(question: str) -> str:
    """The first question without the tag that stands for the clip; one inside the words stays, and is no text to train on."""
    return TAG.sub("", question, count=1)


def _text(content: Any, where: str, wrong: Callable[..., None]) -> str | None:
    """The words of a message; None when it has another form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        wrong(f"{where} has content of type {type(content).__name__}, text or a list of parts is needed")
        return None
    unknown = [part.get("type") for part in content if part.get("type") not in ("text", "video", "image")]
    if unknown or not all(isinstance(part.get("text"), str) for part in content if part["type"] == "text"):
        wrong(f"{where} has a part that is neither text nor the clip: {unknown[0] if unknown else 'text without words'!r}")
        return None
    return "\n".join(part["text"] for part in content if part["type"] == "text")
