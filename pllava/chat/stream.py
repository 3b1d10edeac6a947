"""An answer as it comes: `generate` runs in a thread, and of the text so far what is new and settled is handed on."""

from __future__ import annotations

import dataclasses
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.generation.streamers import BaseStreamer

from pllava.chat.generation import cut
from pllava.model.shared_prefix import Cancelled

if TYPE_CHECKING:
    from pllava.chat.generation import Generation
    from pllava.chat.prefix_cache import EncodedVideo
    from pllava.chat.video_chat import Answer, VideoChat

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece-like tokenizers spell a byte that is no token of its own


class Stream(BaseStreamer):
    """One answer. `pieces()` may be run through once; `answer` is there after its end."""

    def __init__(self, chat: VideoChat, video: Callable[[], EncodedVideo], prompt: str, settings: Generation) -> None:
        self.chat, self.prompt, self.settings = chat, prompt, settings
        self.answer: Answer | None = None
        self._video = video
        self._queue: queue.Queue[str | BaseException | None] = queue.Queue()
        self._cancel = threading.Event()
        self._ids: list[int] = []
        self._before: list[int] = []  # the prompt after the video
        self._prompt_seen = False
        self._trimmed = [text for text in (chat.template.sep[1].strip(), (chat.template.answer_prompt or "").strip()) if text]

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # `generate` hands over the prompt first
            self._prompt_seen = True
            self._before = self.chat.after_video(value[0].tolist())
            return
        self._ids += value.flatten().tolist()
        # A run of byte tokens may turn from characters into U+FFFD by its next byte: wait for its end.
        settled = len(self._ids)
        while settled and BYTE_TOKEN.fullmatch(self._token(self._ids[settled - 1])):
            settled -= 1
        self._queue.put(self._steady(self._ids[:settled]))

    def _token(self, number: int) -> str:
        """Its spelling; "" for ids that only the model has: many vocabularies are padded."""
        return self.chat.processor.tokenizer.convert_ids_to_tokens(number) or ""

    def _steady(self, ids: list[int]) -> str:
        """What later tokens cannot take back of the text: an unfinished character decodes to U+FFFD; a stop string, a closing separator
        or a second answer prompt comes in pieces."""
        text = cut(self.chat.processor.decode_new(self._before, self.chat.until_end(ids)), self.settings.stop)
        text = without_beginning_of(text.rstrip("\ufffd"), self.settings.stop)
        return without_beginning_of(self.chat.template.trim_reply(text), self._trimmed).rstrip()

    def end(self) -> None:
        pass

    def pieces(self) -> Iterator[str]:
        """What is new of the text, as soon as nothing that comes can change it. Closing the iterator stops the model."""
        worker = threading.Thread(target=self._run, daemon=True)
        worker.start()
        given = ""
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if item.startswith(given) and item != given:
                    yield item[len(given) :]
                    given = item
        finally:
            self._cancel.set()
            worker.join()

    def _run(self) -> None:
        try:
            settings = dataclasses.replace(self.settings, cancel=_Either(self._cancel, self.settings.cancel))
            streamer = self if settings.num_beams == 1 else None  # the best beam is known at the end
            self.answer = self.chat.answer([self._video()], [self.prompt], settings, streamer)[0]
            self._queue.put(self.answer.text)
            self._queue.put(None)
        except Cancelled as error:
            theirs = self.settings.cancel is not None and self.settings.cancel.is_set()
            self._queue.put(error.with_traceback(None) if theirs else None)
        except BaseException as error:  # handed to the thread that reads the pieces, which raises it
            self._queue.put(error)


class _Either(threading.Event):
    """Set when this stream was left, or when the caller's event is set."""

    def __init__(self, own: threading.Event, other: threading.Event | None) -> None:
        super().__init__()
        self._own, self._other = own, other

    def is_set(self) -> bool:
        return self._own.is_set() or (self._other is not None and self._other.is_set())


def without_beginning_of(text: str, strings: Sequence[str]) -> str:
    """The text without what may become one of the strings at its end."""
    lengths = (length for whole in strings for length in range(1, len(whole)) if text.endswith(whole[:length]))
    return text[: len(text) - max(lengths, default=0)]
