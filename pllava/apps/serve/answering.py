"""From a checked request to an answer: reads the video, asks the model, yields events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pllava.apps.serve.errors import bad
from pllava.apps.serve.files import Files, named
from pllava.apps.serve.jobs import Event
from pllava.apps.serve.metrics import Metrics
from pllava.apps.serve.protocol import ChatRequest, Media
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.chat import VideoChat, WatchedVideo


LONGEST_TOKEN = 64  # characters; a text that is longer than the context in such tokens is refused before the tokenizer reads it


class Answerer:
    """Answers requests with one model."""

    def __init__(self, chat: VideoChat, files: Files, metrics: Metrics) -> None:
        self.chat, self.files, self.metrics = chat, files, metrics

    def check(self, request: ChatRequest) -> None:
        """Check what needs no model, before the request waits in the queue.

        Raises ApiError for a marker of the template in the text, a conversation longer than the context, or a missing file.
        """
        if request.media.file_id is not None:
            self.files.get(request.media.file_id)
        chat = self._chat(request)
        try:
            prompt = chat.template.prompt_for(request.question, request.history)
        except PllavaError as error:
            raise bad(str(error), "messages") from None
        context = getattr(chat.model.config.get_text_config(), "max_position_embeddings", None)
        if len(prompt) > LONGEST_TOKEN * (context or 1 << 14):
            raise bad(
                f"the conversation has {len(prompt):,} characters, more than the model's context", "messages", "context_length_exceeded"
            )
        length = len(chat.tokenize(prompt))
        if context is not None and length + request.max_new_tokens > context:
            raise bad(
                f"the conversation has {length} tokens and {request.max_new_tokens} are asked for; the model's context has {context}",
                "messages",
                "context_length_exceeded",
            )

    def keep(self, request: ChatRequest) -> ChatRequest:
        """The request with its video on disk instead of in memory. The caller removes the video with `files.discard`."""
        if request.media.file_id is not None:
            return request
        return replace(request, media=Media(path=self.files.temporary(request.media)))

    def work(self, request: ChatRequest, cancel: threading.Event, began: float) -> Iterator[Event]:
        """Events of one job: "ready" once the video is encoded, a "piece" for each text, "done" with the whole answer.

        began: `time.monotonic()` when the request arrived.
        """
        chat = self._chat(request)
        video = self._watch(chat, request.media, cancel)
        yield "ready", None
        stream = video.streamed(
            request.question,
            request.max_new_tokens,
            request.history,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=request.stop,
            seed=request.seed,
            stop_at_repetition=True,
            cancel=cancel,
        )
        first = True
        for piece in stream.pieces():
            if first:
                self.metrics.first_token.observe(time.monotonic() - began)
                first = False
            yield "piece", piece
        assert stream.answer is not None
        self.metrics.tokens.labels("prompt").inc(stream.answer.prompt_tokens)
        self.metrics.tokens.labels("completion").inc(len(stream.answer.token_ids))
        yield "done", stream.answer

    def _chat(self, request: ChatRequest) -> VideoChat:
        """The chat with the request's system message."""
        if request.system is None:
            return self.chat
        try:
            self.chat.template.check(request.system, "the system message")
        except PllavaError as error:
            raise bad(str(error), "messages") from None
        return self.chat.with_template(self.chat.template.model_copy(update={"system": request.system}))

    def _watch(self, chat: VideoChat, media: Media, cancel: threading.Event) -> WatchedVideo:
        path = self.files.get(media.file_id).path if media.file_id is not None else media.path or self.files.temporary(media)
        try:
            return chat.watch(path, cancel=cancel)
        except PllavaError as error:
            if cancel.is_set():
                raise
            raise bad(named(error, path), "messages") from None
        finally:
            if media.file_id is None:
                self.files.discard(path)
