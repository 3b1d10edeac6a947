"""Handlers of the chat page. Each visitor has a clip and a conversation; all visitors share one model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.apps.demo.components import sentence
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.apps.web.frames import strip
from pllava.apps.web.uploads import Uploads
from pllava.core.errors import PllavaError
from pllava.model.familiarity import FAR

if TYPE_CHECKING:
    from pllava.chat import WatchedVideo

PROBLEM = "⚠️ "  # first characters of a message that the page wrote, not the model
OURS = "Something went wrong on this side. The server's log says what; the question can be asked again."
APART = "\u200b"  # a space of zero width
BY = "\u2063"  # an invisible character between an answer and the name of its model
CHOOSE = "Please choose a video first: upload one, or take a held-out clip."
MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[#\w])")
UNPLAYABLE = '<p class="facts">Browsers do not play this format; the model reads it all the same.</p>'
Message = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A visitor's clip. path: in the upload folder; strip: HTML of its frames; kind: a MIME type that browsers show, or None."""

    path: str
    strip: str
    kind: str | None


class Visits:
    """turns: "conversation", or "independent" for a model that was trained on single questions; it gets no history."""

    def __init__(self, engine: ChatEngine, uploads: Uploads, turns: str = "conversation") -> None:
        self.engine = engine
        self.uploads = uploads
        self.turns = turns
        self._unanswered: dict[str, list[Message]] = {}  # session -> the conversation whose last question waits for its answer

    def look(self, session: str, path: str, settings: Settings, ours: bool = False) -> Clip:
        """Take a file as the visitor's clip. A file that is no video or image, or is too large, is removed at once.

        ours: the file is a sample clip; it is copied. Raises PllavaError with a sentence for the visitor.
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
        frames = strip(watched.frames, self.engine.chat.processor.pooling_shape)
        return Clip(str(file), frames + _far(watched) + ("" if kind else UNPLAYABLE), kind)

    def look_again(self, clip: Clip, settings: Settings) -> str:
        """HTML of the clip's frames with other settings. Raises PllavaError with a sentence for the visitor."""
        try:
            watched = self.engine.watch(clip.path, settings)
            return strip(watched.frames, self.engine.chat.processor.pooling_shape) + _far(watched) + ("" if clip.kind else UNPLAYABLE)
        except PllavaError as error:
            raise PllavaError(sentence(error, clip.path)) from None

    def asks(self, session: str, history: list[Message]) -> None:
        """Note a visitor's next question. An answer that is being written to an earlier question ends where it is."""
        self._unanswered[session] = history

    def reply(self, session: str, clip: Clip | None, settings: Settings, no_clip: str = CHOOSE) -> Iterator[list[Message]]:
        """Yields the conversation with the answer to its last question, longer each time. Errors are messages in the chat.

        no_clip: the message when there is no clip. The conversation comes from `asks` and not from the page, because on the page an earlier
        answer may have overwritten the question.
        """
        if (history := self._unanswered.pop(session, None)) is None:
            return
        yield history
        if not history or history[-1]["role"] != "user":
            return
        if clip is None:
            yield [*history, _reply(PROBLEM + no_clip)]
            return
        earlier = pairs(history[:-1]) if self.turns == "conversation" else []
        try:
            answer = ""
            credit: list[str] = []
            for answer in self.engine.stream(clip.path, text_of(history[-1]), earlier, settings, credit.append):
                if session in self._unanswered:
                    return
                yield [*history, _reply(answer, *credit)]
            if not answer:
                yield [*history, _reply(PROBLEM + "The model said nothing.")]
        except PllavaError as error:
            yield [*history, _reply(PROBLEM + sentence(error, clip.path))]
        except Exception:
            log.exception("a question failed")
            yield [*history, _reply(PROBLEM + OURS)]

    def leave(self, session: str | None) -> None:
        """The visitor closed the page: release the files."""
        if session:
            self._unanswered.pop(session, None)
            self.uploads.release(session)


def asked(question: str, history: list[Message]) -> list[Message]:
    """The conversation with a new question; unchanged when the question is empty."""
    question = question.replace(APART, "").strip()
    return [*history, {"role": "user", "content": shown(question)}] if question else history


def up_to(history: list[Message], index: int | tuple[int, int] | list[int], text: str | None = None) -> list[Message]:
    """The conversation up to the question at or before `index`, which is asked again. text: a new wording of the question."""
    position = index if isinstance(index, int) else index[0]
    while position > 0 and history[position]["role"] != "user":
        position -= 1
    question = text_of(history[position]) if text is None else text
    return asked(question, history[:position])


def pairs(history: list[Message]) -> list[tuple[str, str]]:
    """(question, answer) pairs, oldest first. Questions without an answer of the model are left out."""
    answered = []
    for first, second in pairwise(history):
        if first["role"] == "user" and second["role"] == "assistant" and not text_of(second).startswith(PROBLEM):
            answered.append((text_of(first), text_of(second)))
    return answered


def text_of(message: Message) -> str:
    """Text of a chat message, without the name of the model. Gradio returns the content as a list of parts."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if message["role"] == "assistant":
        text = text.partition(f"\n{BY}")[0]
    return text.replace(APART, "")


def shown(text: str) -> str:
    """Text for the chat, which renders HTML: APART after each `<` and `&` keeps them from beginning a tag or an entity.

    The visitor still sees, copies and edits the same text.
    """
    return MARKUP.sub(rf"\g<0>{APART}", text)


def _far(watched: WatchedVideo) -> str:
    """HTML of a warning when the clip is unlike the clips that the model was trained on."""
    return f'<p class="facts" role="status">{PROBLEM}{FAR}</p>' if watched.far else ""


def _reply(text: str, credit: str = "") -> Message:
    content = shown(text.replace(BY, ""))
    return {"role": "assistant", "content": f"{content}\n{BY}— {shown(credit)}" if credit else content}
