"""What is known about one answer of the page, and a chat as a file: JSON for programs, Markdown for people."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Record:
    """Who gave an answer, from what, at what cost. tokens, seconds: None until the answer is whole.

    model: name and LoRA alpha. frames: times of the frames; frames, duration and seconds are in seconds.
    """

    model: str
    version: int | None
    settings: dict[str, Any]
    frames: list[float]
    duration: float
    asked: str  # ISO 8601
    tokens: int | None = None
    seconds: float | None = None
    stopped: bool = False

    def line(self) -> str:
        """The small line below the answer."""
        cost = [] if self.seconds is None else [f"{self.tokens} token{'' if self.tokens == 1 else 's'}", f"{self.seconds:.1f} s"]
        return " · ".join([*filter(None, [self.model]), *cost, *(["stopped"] if self.stopped else [])])


def record_of(message: dict[str, Any]) -> Record | None:
    """The record that travels with a message of the chat; None without one."""
    log = (message.get("metadata") or {}).get("log")
    try:
        return Record(**json.loads(log)) if log else None
    except (TypeError, ValueError):
        return None


def as_json(video: str, turns: Sequence[tuple[str, str, Record | None]]) -> str:
    """turns: (question, answer, record). The text of a JSON file."""
    rows = [{"question": question, "answer": answer, **(asdict(record) if record else {})} for question, answer, record in turns]
    return json.dumps({"video": video, "turns": rows}, indent=2, ensure_ascii=False) + "\n"


def as_markdown(video: str, turns: Sequence[tuple[str, str, Record | None]]) -> str:
    """turns: (question, answer, record). The text of a Markdown file; words of a visitor or a model cannot become markup."""
    parts = [f"# PLLaVA: {_plain(video) or 'chat'}"]
    for question, answer, record in turns:
        parts += [f"**{_plain(question)}**", _plain(answer)]
        if record:
            times = ", ".join(f"{time:.2f}" for time in record.frames)
            settings = ", ".join(f"{name} {value}" for name, value in record.settings.items() if name != "system" and value is not None)
            parts.append(f"_{_plain(record.line())}_  \nframes at {times} s; {_plain(settings)}; asked {record.asked}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]#|~" else letter for letter in html.escape(text, quote=False))
    return escaped.replace("\n", "  \n")
