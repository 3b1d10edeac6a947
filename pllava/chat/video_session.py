"""Questions about one encoded video: what `VideoChat.watch` gives."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

from pllava.chat.generation import Generation, Options
from pllava.chat.prefix_cache import EncodedVideo, weights_key
from pllava.chat.stream import Stream

if TYPE_CHECKING:
    from pllava.chat.video_chat import Answer, VideoChat
    from pllava.video.frames import VideoFrames

History = Sequence[tuple[str, str]]  # (question, answer), oldest first


class WatchedVideo:
    """One video, encoded. `frames` tells which frames were seen and which reader decoded them.

    It keeps its encoding while you hold it, whatever the cache lets go. When the model's weights or adapters have changed since, it is
    encoded again from its frames.
    """

    def __init__(self, chat: VideoChat, encoded: EncodedVideo, key: Hashable | None) -> None:
        self.chat = chat
        self._encoded_video = encoded
        self._key = key
        self._weights = weights_key(chat.model)

    @property
    def frames(self) -> VideoFrames:
        assert self._encoded_video.frames is not None, "made of features: there are no frames"
        return self._encoded_video.frames

    @property
    def prefix(self) -> list[int]:
        """Ids of the prompt up to the video's last token, which every question shares."""
        return self._encoded_video.prefix

    def encoded(self) -> EncodedVideo:
        if self._encoded_video.frames is not None and (now := weights_key(self.chat.model)) != self._weights:
            frames = self._encoded_video.frames
            self._encoded_video, self._weights = self.chat.encoded(self._key, lambda: frames), now
        return self._encoded_video

    def ask(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Answer:
        """One answer. history: earlier (question, answer) pairs of this conversation; what of it was computed before is not again.

        Greedy by default; temperature above 0 samples. Options: `pllava.chat.generation.Generation`.
        Raises PllavaError when the question holds a role marker or a special token, Cancelled when the event `cancel` is set.
        """
        settings = Generation(max_new_tokens, **options)
        prompt = self.chat.template.prompt_for(question, history)
        return self.chat.answer([self.encoded()], [prompt], settings)[0]

    def ask_all(
        self, questions: Sequence[str], max_new_tokens: int = 100, batch_size: int = 16, **options: Unpack[Options]
    ) -> list[Answer]:
        """Independent answers, `batch_size` questions at once over the shared beginning; each is what `ask` gives alone."""
        return self.chat.ask_each([self] * len(questions), questions, max_new_tokens, batch_size, **options)

    def conversation(self) -> Conversation:
        """A dialogue: each question is asked with what was said before."""
        return Conversation(self)

    def stream(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Iterator[str]:
        """The answer in pieces as they are made; joined they are the text that `ask` gives. A beam search comes in one piece.

        Leaving the loop (or `close()`) stops the model in the middle of a token and frees what it held.
        """
        return self.streamed(question, max_new_tokens, history, **options).pieces()

    def streamed(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Stream:
        """As `stream`, for who needs the whole answer at the end as well: `pieces()`, then `answer`."""
        settings = Generation(max_new_tokens, **options)
        prompt = self.chat.template.prompt_for(question, history)
        return Stream(self.chat, self.encoded, prompt, settings)


class Conversation:
    """What was said about a video so far; `ask` and `stream` add to it.

    Each turn computes only what is new: the video keeps what followed its beginning (`EncodedVideo.tails`). When the model wrote other
    tokens than its words are read as, or the answer was trimmed, that part is computed again, so a turn is always that of the whole prompt.
    """

    def __init__(self, video: WatchedVideo) -> None:
        self.video = video
        self.history: list[tuple[str, str]] = []

    def ask(self, question: str, max_new_tokens: int = 100, **options: Unpack[Options]) -> Answer:
        answer = self.video.ask(question, max_new_tokens, self.history, **options)
        self.history.append((question, answer.text))
        return answer

    def stream(self, question: str, max_new_tokens: int = 100, **options: Unpack[Options]) -> Iterator[str]:
        """An answer that is left before its end is not remembered."""
        said = ""
        for piece in self.video.stream(question, max_new_tokens, tuple(self.history), **options):
            said += piece
            yield piece
        self.history.append((question, said))
