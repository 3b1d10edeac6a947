"""An answer in pieces, while the model generates it.

`generate` runs in a thread. A piece is new text that no later token can change.
"""

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

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece-like tokenizers spell one byte of a character without a token


class Stream(BaseStreamer):
    """One answer. Iterate over `pieces()` once; afterwards `answer` holds the whole Answer."""

    def __init__(self, chat: VideoChat, video: Callable[[], EncodedVideo], prompt: str, settings: Generation) -> None:
        self.chat, self.prompt, self.settings = chat, prompt, settings
        self.answer: Answer | None = None
        self._video = video
        self._queue: queue.Queue[str | BaseException | None] = queue.Queue()
        self._cancel = threading.Event()
        self._ids: list[int] = []
        self._before: list[int] = []  # ids of the prompt behind the video
        self._prompt_seen = False
        self._trimmed = [text for text in (chat.template.sep[1].strip(), (chat.template.answer_prompt or "").strip()) if text]

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # `generate` hands over the prompt first
            self._prompt_seen = True
            self._before = self.chat.after_video(value[0].tolist())
            return
        self._ids += value.flatten().tolist()
        # The next byte token can turn the text of a run of byte tokens into U+FFFD: leave the run out until it ends.
        settled = len(self._ids)
        while settled and BYTE_TOKEN.fullmatch(self._token(self._ids[settled - 1])):
            settled -= 1
        self._queue.put(self._steady(self._ids[:settled]))

    def _token(self, number: int) -> str:
        """The token's spelling. "" for an id above the tokenizer's vocabulary: many models pad their vocabulary."""
        return self.chat.processor.tokenizer.convert_ids_to_tokens(number) or ""

    def _steady(self, ids: list[int]) -> str:
        """The beginning of the text that no later token can change.

        Left out at the end: U+FFFD (an unfinished character), and a beginning of a stop string, a closing separator or an answer prompt.
        """
        text = cut(self.chat.processor.decode_new(self._before, self.chat.until_end(ids)), self.settings.stop)
        text = without_beginning_of(text.rstrip("\ufffd"), self.settings.stop)
        return without_beginning_of(self.chat.template.trim_reply(text), self._trimmed).rstrip()

    def end(self) -> None:
        pass

    def pieces(self) -> Iterator[str]:
        """New text, as soon as no later token can change it. Closing the iterator stops the model."""
        worker = threading.Thread(target=self._run, daemon=True)
        worker.start()
        yielded = ""
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if item.startswith(yielded) and item != yielded:
                    yield item[len(yielded) :]
                    yielded = item
        finally:
            self._cancel.set()
            worker.join()

    def _run(self) -> None:
        try:
            settings = dataclasses.replace(self.settings, cancel=_EitherEvent(self._cancel, self.settings.cancel))
            streamer = self if settings.num_beams == 1 else None  # the best beam is known only at the end
            self.answer = self.chat.answer([self._video()], [self.prompt], settings, streamer)[0]
            self._queue.put(self.answer.text)
            self._queue.put(None)
        except Cancelled as error:
            by_caller = self.settings.cancel is not None and self.settings.cancel.is_set()
            self._queue.put(error.with_traceback(None) if by_caller else None)
        except BaseException as error:  # `pieces` raises it in the reading thread
            self._queue.put(error)


class _EitherEvent(threading.Event):
    """Set when one of two events is set: the stream's own (the reader has left) or the caller's."""

    def __init__(self, own: threading.Event, other: threading.Event | None) -> None:
        super().__init__()
        self._own, self._other = own, other

    def is_set(self) -> bool:
        return self._own.is_set() or (self._other is not None and self._other.is_set())


def without_beginning_of(text: str, strings: Sequence[str]) -> str:
    """The text without a beginning of one of the strings at the end of the text."""
    lengths = (length for whole in strings for length in range(1, min(len(whole), len(text) + 1)) if text.endswith(whole[:length]))
    return text[: len(text) - max(lengths, default=0)]
