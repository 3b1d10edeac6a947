"""What happens when a visitor does something on the chat page. Each has an own clip and conversation; the model is shared."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pllava.apps.demo.components import sentence
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.apps.web.frames import strip
from pllava.apps.web.uploads import Uploads
from pllava.core.errors import PllavaError

PROBLEM = "⚠️ "  # begins a message that is not the model's
OURS = "Something went wrong on this side. The server's log says what; the question can be asked again."
APART = "\u200b"  # a space of no width
BY = "\u2063"  # nobody sees it; what follows it in an answer says who gave it
CHOOSE = "Please choose a video first: upload one, or take a held-out clip."
MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[#\w])")
UNPLAYABLE = '<p class="facts">Browsers do not play this format; the model reads it all the same.</p>'
Message = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """What a visitor looks at. path: in the upload folder; kind: a MIME type that browsers show, or None."""

    path: str
    strip: str
    kind: str | None


class Visits:
    """turns: "independent" for a model that was trained on questions that do not see each other, so it is given no history."""

    def __init__(self, engine: ChatEngine, uploads: Uploads, turns: str = "conversation") -> None:
        self.engine = engine
        self.uploads = uploads
        self.turns = turns
        self._asked: dict[str, list[Message]] = {}  # session -> the conversation whose last question waits for its answer

    def look(self, session: str, path: str, settings: Settings, ours: bool = False) -> Clip:
        """Take a file, if its content is a video or an image that can be read and is not too large; else it is removed at once.

        ours: one of the sample clips, which is copied. Raises PllavaError with a sentence for the visitor.
        """
        from pllava.apps.web.media import content_type

        try:
            file = self.uploads.copy(session, Path(path)) if ours else self.uploads.take(session, path)
            watched = self.engine.watch(file, settings)
        except PllavaError as error:
            self.uploads.release(session)
            if not ours:
                self.uploads.discard(path)
            raise PllavaError(sentence(error, str(Path(path).resolve()))) from None
        except Exception:
            log.exception("a clip could not be looked at")
            self.uploads.release(session)
            raise PllavaError(OURS) from None
        kind = content_type(file)
        shown_as = strip(watched.frames, self.engine.chat.processor.pooling_shape)
        return Clip(str(file), shown_as + ("" if kind else UNPLAYABLE), kind)

    def look_again(self, clip: Clip, settings: Settings) -> str:
        """The strip for other settings. Raises PllavaError."""
        try:
            frames = self.engine.watch(clip.path, settings).frames
            return strip(frames, self.engine.chat.processor.pooling_shape) + ("" if clip.kind else UNPLAYABLE)
        except PllavaError as error:
            raise PllavaError(sentence(error, clip.path)) from None

    def asks(self, session: str, history: list[Message]) -> None:
        """A visitor's next question: the answer to the one before ends as far as it has come."""
        self._asked[session] = history

    def reply(self, session: str, clip: Clip | None, settings: Settings, no_clip: str = CHOOSE) -> Iterator[list[Message]]:
        """The conversation with the answer to its last question growing; what goes wrong is said in the chat. no_clip: said without one.

        What the page shows by now is not asked for: the answer before may have been written over the question.
        """
        if (history := self._asked.pop(session, None)) is None:
            return
        yield history
        if not history or history[-1]["role"] != "user":
            return
        if clip is None:
            yield [*history, _says(PROBLEM + no_clip)]
            return
        said = pairs(history[:-1]) if self.turns == "conversation" else []
        try:
            answer = ""
            credit: list[str] = []
            for answer in self.engine.stream(clip.path, text_of(history[-1]), said, settings, credit.append):
                if session in self._asked:
                    return
                yield [*history, _says(answer, *credit)]
            if not answer:
                yield [*history, _says(PROBLEM + "The model said nothing.")]
        except PllavaError as error:
            yield [*history, _says(PROBLEM + sentence(error, clip.path))]
        except Exception:
            log.exception("a question failed")
            yield [*history, _says(PROBLEM + OURS)]

    def leave(self, session: str | None) -> None:
        """The page was closed: its files go."""
        if session:
            self._asked.pop(session, None)
            self.uploads.release(session)


def asked(question: str, history: list[Message]) -> list[Message]:
    """The conversation with a new question, if it says anything."""
    question = question.replace(APART, "").strip()
    return [*history, {"role": "user", "content": shown(question)}] if question else history


def up_to(history: list[Message], index: int | tuple[int, int] | list[int], text: str | None = None) -> list[Message]:
    """The conversation up to the question that is asked again; text: instead of what it was."""
    at = index if isinstance(index, int) else index[0]
    while at > 0 and history[at]["role"] != "user":
        at -= 1
    question = text_of(history[at]) if text is None else text
    return asked(question, history[:at])


def pairs(history: list[Message]) -> list[tuple[str, str]]:
    """Questions with their answers. A question that was refused, or has no answer, was not part of the conversation."""
    found = []
    for first, second in pairwise(history):
        if first["role"] == "user" and second["role"] == "assistant" and not text_of(second).startswith(PROBLEM):
            found.append((text_of(first), text_of(second)))
    return found


def text_of(message: Message) -> str:
    """Text of a chat message, without who said it; Gradio hands the content back as a list of parts."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if message["role"] == "assistant":
        text = text.partition(f"\n{BY}")[0]
    return text.replace(APART, "")


def shown(text: str) -> str:
    """Text for the chat, which takes HTML: no `<` begins a tag there and no `&` an entity. It still reads, copies and edits as it was."""
    return MARKUP.sub(rf"\g<0>{APART}", text)


def _says(text: str, credit: str = "") -> Message:
    said = shown(text.replace(BY, ""))
    return {"role": "assistant", "content": f"{said}\n{BY}— {shown(credit)}" if credit else said}
