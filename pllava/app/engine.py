"""One model for every visitor: a lock around it, and the last few clips kept encoded, so a follow-up question costs only its own tokens."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.files import sha256_file

if TYPE_CHECKING:
    from pllava.app.source import ModelSource
    from pllava.chat import VideoChat, WatchedVideo


class ChatEngine:
    """Answers questions one at a time. `keep` clips stay encoded: a 7B model's cache of 2,304 visual tokens is about 1.2 GB each."""

    def __init__(self, chat: VideoChat, keep: int = 2, max_new_tokens: int = 200) -> None:
        self.chat = chat
        self.keep = keep
        self.max_new_tokens = max_new_tokens
        self.source: ModelSource | None = None  # what `chat` was loaded from, where somebody wants to know
        self._lock = threading.Lock()  # not an RLock: a stream may be advanced and closed by different threads
        self._watched: OrderedDict[str, WatchedVideo] = OrderedDict()  # sha256 of the file -> clip, oldest first

    def watch(self, path: str | Path) -> WatchedVideo:
        """Decode and encode a clip, or find it among the last few. Raises PllavaError when it cannot be read."""
        with self._lock:
            return self._watch(path)

    def ask(self, path: str | Path, question: str) -> str:
        with self._lock:
            return self._watch(path).ask(question, max_new_tokens=self.max_new_tokens).text

    def stream(self, path: str | Path, question: str, history: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """The answer so far, growing. history: (question, answer) pairs, oldest first. Closing the iterator stops the model."""
        with self._lock:
            answer = ""
            for piece in self._watch(path).stream(question, self.max_new_tokens, history):
                answer += piece
                yield answer

    def _watch(self, path: str | Path) -> WatchedVideo:
        key = sha256_file(path)
        if key in self._watched:
            self._watched.move_to_end(key)
            return self._watched[key]
        watched = self.chat.watch(path)
        self._watched[key] = watched
        while len(self._watched) > self.keep:
            self._watched.popitem(last=False)
        return watched
