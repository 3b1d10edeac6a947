"""Own data as chat messages: `turns_of([{"role": "user", "content": "What happens?"}, {"role": "assistant", "content": "A dog runs."}])`.

The row around them names the clip as in VideoChat2-IT: `{"video": "clips/1.mp4", "messages": [...], "start"?, "end"?}`. A content is text,
or a list of `{"type": "text", "text": ...}` and `{"type": "video" | "image"}`. The latter stands for the clip: the template puts it where
it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROLES = ("system", "user", "assistant")


def turns_of(messages: Any, wrong: Callable[..., None]) -> list[dict[str, str]]:
    """Turns `{"i", "q", "a"}`: a system message is the instruction, an answer without a question a caption. Problems go to `wrong`."""
    if not isinstance(messages, list) or not messages:
        wrong(f"messages is {'empty' if messages == [] else type(messages).__name__}, a list of user and assistant messages is needed")
        return []
    turns: list[dict[str, str]] = []
    instruction, question = "", None
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            wrong(f"{where} has role {role!r}, one of {', '.join(ROLES)} is needed")
            return []
        text = _text(message.get("content"), where, wrong)
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
