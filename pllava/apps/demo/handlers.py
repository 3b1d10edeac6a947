"""Handlers of the chat page. Each visitor has a clip and a conversation; all visitors share one model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.apps.demo.components import sentence
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.apps.demo.record import Record, record_of
from pllava.apps.web.frames import strip
from pllava.apps.web.uploads import Uploads
from pllava.core.errors import PllavaError
from pllava.model.familiarity import FAR

if TYPE_CHECKING:
    from pllava.chat import WatchedVideo

PROBLEM = "⚠️ "  # first characters of a message that the page wrote, not the model
OURS = "Something went wrong on this side. The server's log says what; the question can be asked again."
APART = "\u200b"  # a space of zero width
BY = "\u2063"  # an invisible character between an answer and the line about it
ABOUT = f"\n<small>{BY}"  # begins that line
CHOOSE = "Please choose a video first: upload one, or take a held-out clip."
MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[#\w])")
TIME = re.compile(r"\b(?:(?P<minutes>\d+):(?P<rest>\d\d(?:\.\d+)?)|(?P<seconds>\d+(?:\.\d+)?) ?(?:s|secs?|seconds?))\b")
LINK = re.compile(r'<a href="#t=[\d.]+">|</a>')
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
        self._work: dict[str, object] = {}  # session -> the conversation that is being answered, or that the clip is being captioned
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
        return Clip(str(file), self._frames(watched, kind), kind)

    def look_again(self, clip: Clip, settings: Settings) -> str:
        """HTML of the clip's frames with other settings. Raises PllavaError with a sentence for the visitor."""
        try:
            return self._frames(self.engine.watch(clip.path, settings), clip.kind)
        except PllavaError as error:
            raise PllavaError(sentence(error, clip.path)) from None

    def _frames(self, watched: WatchedVideo, kind: str | None) -> str:
        playable = (kind or "").startswith("video/")
        pictures = strip(watched.frames, self.engine.chat.processor.pooling_shape, playable)
        return pictures + _far(watched) + ("" if kind else UNPLAYABLE)

    def asks(self, session: str, history: list[Message]) -> None:
        """Note a visitor's next question. An answer that is being written to an earlier question ends where it is."""
        self._unanswered[session] = self._work[session] = history

    def reply(self, session: str, clip: Clip | None, settings: Settings, no_clip: str = CHOOSE) -> Iterator[list[Message]]:
        """Yields the conversation with the answer to its last question, longer each time. Errors are messages in the chat.

        no_clip: the message when there is no clip. The conversation comes from `asks` and not from the page, because on the page an earlier
        answer may have overwritten the question.
        """
        if (history := self._unanswered.pop(session, None)) is None:
            return
        try:
            yield from self._answer(session, history, clip, settings, no_clip)
        finally:
            self.ends(session, history)

    def _answer(self, session: str, history: list[Message], clip: Clip | None, settings: Settings, no_clip: str) -> Iterator[list[Message]]:
        yield history
        if not history or history[-1]["role"] != "user":
            return
        if clip is None:
            yield [*history, _reply(PROBLEM + no_clip)]
            return
        earlier = pairs(history[:-1]) if self.turns == "conversation" else []
        try:
            answer = ""
            records: list[Record] = []
            for answer in self.engine.stream(clip.path, text_of(history[-1]), earlier, settings, records.append):
                if self._work.get(session) is not history:  # stopped, or another question was asked
                    return
                yield [*history, _reply(answer, *records)]
            if answer and records:
                yield [*history, _reply(answer, *records)]  # with tokens and seconds
            if not answer:
                yield [*history, _reply(PROBLEM + "The model said nothing.")]
        except PllavaError as error:
            yield [*history, _reply(PROBLEM + sentence(error, clip.path))]
        except Exception:
            log.exception("a question failed")
            yield [*history, _reply(PROBLEM + OURS)]

    def begins(self, session: str, work: object) -> None:
        """The model works for this visitor: Stop can be pressed."""
        self._work[session] = work

    def ends(self, session: str, work: object = None) -> None:
        """This work has ended. None: whatever it was, and the question that waits."""
        if work is None:
            self._unanswered.pop(session, None)
        if work is None or self._work.get(session) is work:
            self._work.pop(session, None)

    def busy(self, session: str) -> bool:
        """Whether a question of this visitor waits or is being answered, or captions are being made."""
        return session in self._work

    def leave(self, session: str | None) -> None:
        """The visitor closed the page: release the files."""
        if session:
            self.ends(session)
            self.uploads.release(session)


def asked(question: str, history: list[Message]) -> list[Message]:
    """The conversation with a new question; unchanged when the question is empty."""
    question = question.replace(APART, "").strip()
    return [*stopped(history), {"role": "user", "content": shown(question)}] if question else history


def stopped(history: list[Message], waiting: str = "") -> list[Message]:
    """The conversation with a mark on the last answer when that is not whole. waiting: an answer to a question that has none yet."""
    if not history:
        return history
    if history[-1]["role"] == "user":
        return [*history, _reply(PROBLEM + waiting)] if waiting else history
    record = record_of(history[-1])
    if record is None or record.seconds is not None:
        return history
    return [*history[:-1], _reply(text_of(history[-1]), replace(record, stopped=True))]


def up_to(history: list[Message], index: int | tuple[int, int] | list[int], text: str | None = None) -> list[Message]:
    """The conversation up to the question at or before `index`, which is asked again. text: a new wording of the question."""
    position = index if isinstance(index, int) else index[0]
    while position > 0 and history[position]["role"] != "user":
        position -= 1
    question = text_of(history[position]) if text is None else text
    return asked(question, history[:position])


def turns(history: list[Message]) -> list[tuple[str, str, Record | None]]:
    """(question, answer, record) of each question, oldest first; "" for a question without an answer."""
    return [
        (text_of(first), text_of(second) if second["role"] == "assistant" else "", record_of(second))
        for first, second in pairwise([*history, {"role": "user", "content": ""}])
        if first["role"] == "user"
    ]


def pairs(history: list[Message]) -> list[tuple[str, str]]:
    """(question, answer) pairs, oldest first. Questions without an answer of the model are left out."""
    answered = []
    for first, second in pairwise(history):
        if first["role"] == "user" and second["role"] == "assistant" and not text_of(second).startswith(PROBLEM):
            answered.append((text_of(first), text_of(second)))
    return answered


def text_of(message: Message) -> str:
    """Text of a chat message, without the line about it and without links. Gradio returns the content as a list of parts."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if message["role"] == "assistant":
        text = LINK.sub("", text.partition(ABOUT)[0])
    return text.replace(APART, "")


def shown(text: str) -> str:
    """Text for the chat, which renders HTML: APART after each `<` and `&` keeps them from beginning a tag or an entity.

    The visitor still sees, copies and edits the same text.
    """
    return MARKUP.sub(rf"\g<0>{APART}", text)


def _far(watched: WatchedVideo) -> str:
    """HTML of a warning when the clip is unlike the clips that the model was trained on."""
    return f'<p class="facts" role="status">{PROBLEM}{FAR}</p>' if watched.far else ""


def _reply(text: str, record: Record | None = None) -> Message:
    content = shown(text.replace(BY, ""))
    if record is None:
        return {"role": "assistant", "content": content}
    line = f"{ABOUT}— {shown(record.line())}</small>" if record.line() else ""
    content = TIME.sub(lambda said: _link(said, record.duration), content)
    return {"role": "assistant", "content": content + line, "metadata": {"log": json.dumps(asdict(record))}}


def _link(said: re.Match[str], duration: float) -> str:
    """A time such as "3.2 s" or "0:03" as a link that the page's script turns into a jump of the player, when the clip is so long."""
    seconds = float(said["seconds"] or 60 * int(said["minutes"] or 0) + float(said["rest"] or 0))
    return f'<a href="#t={seconds:.3f}">{said[0]}</a>' if duration and seconds <= duration else said[0]
