"""Questions about one encoded video: `WatchedVideo`, which `VideoChat.watch` returns, and `Conversation`."""

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
    """One encoded video. `frames` holds the frames that the model saw, and the name of the reader that decoded them.

    A WatchedVideo keeps its encoding even when the cache evicts the entry. After a change of the model's weights or adapters, the next
    question encodes the video again from its frames.
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
    def distance(self) -> float | None:
        """Distance from the clips that the model was trained on, about 1 for one of them; None: the model has no statistics of them."""
        return self._encoded_video.distance.distance if self._encoded_video.distance else None

    @property
    def far(self) -> bool | None:
        """Whether the clip is unlike those clips, so that answers are likely wrong; None: the model has no statistics of them."""
        return self._encoded_video.distance.far if self._encoded_video.distance else None

    @property
    def prefix(self) -> list[int]:
        """Token ids from the beginning of the prompt to the video's last token. Every question shares them."""
        return self._encoded_video.prefix

    def encoded(self) -> EncodedVideo:
        """The encoding under the model's present weights and adapters."""
        if self._encoded_video.frames is not None and (now := weights_key(self.chat.model)) != self._weights:
            frames = self._encoded_video.frames
            self._encoded_video, self._weights = self.chat.encoded(self._key, lambda: frames), now
        return self._encoded_video

    def ask(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Answer:
        """One answer. history: earlier (question, answer) pairs of this conversation. Keys and values of earlier turns are reused.

        Decoding is greedy by default; a temperature above 0 samples. Options: `pllava.chat.generation.Generation`.
        Raises PllavaError when the question holds a role marker or a special token, Cancelled when the event `cancel` is set.
        """
        settings = Generation(max_new_tokens, **options)
        prompt = self.chat.template.prompt_for(question, history)
        return self.chat.answer([self.encoded()], [prompt], settings)[0]

    def ask_all(
        self, questions: Sequence[str], max_new_tokens: int = 100, batch_size: int = 16, **options: Unpack[Options]
    ) -> list[Answer]:
        """Independent answers. The model generates `batch_size` answers at once; each equals the answer of `ask` to the question alone."""
        return self.chat.ask_each([self] * len(questions), questions, max_new_tokens, batch_size, **options)

    def conversation(self) -> Conversation:
        """A dialogue: the model sees the earlier turns with each question."""
        return Conversation(self)

    def stream(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Iterator[str]:
        """Pieces of the answer while the model generates it. The joined pieces are the text of `ask`. A beam search gives one piece.

        Leaving the loop (or `close()`) stops the model within a token and frees its memory.
        """
        return self.streamed(question, max_new_tokens, history, **options).pieces()

    def streamed(self, question: str, max_new_tokens: int = 100, history: History = (), **options: Unpack[Options]) -> Stream:
        """The same as a `Stream`: iterate over `pieces()`, then read the whole Answer from `answer`."""
        settings = Generation(max_new_tokens, **options)
        prompt = self.chat.template.prompt_for(question, history)
        return Stream(self.chat, self.encoded, prompt, settings)


class Conversation:
    """The turns of a dialogue about one video. `ask` and `stream` add a turn to `history`.

    A turn computes only new tokens: the video keeps keys and values of earlier turns (`EncodedVideo.tails`). The tokens of an earlier
    answer can differ from the tokenised text of the answer, for example after trimming. The turn then computes the answer's tokens again.
    Every answer therefore equals the answer to the whole prompt.
    """

    def __init__(self, video: WatchedVideo) -> None:
        self.video = video
        self.history: list[tuple[str, str]] = []

    def ask(self, question: str, max_new_tokens: int = 100, **options: Unpack[Options]) -> Answer:
        answer = self.video.ask(question, max_new_tokens, self.history, **options)
        self.history.append((question, answer.text))
        return answer

    def stream(self, question: str, max_new_tokens: int = 100, **options: Unpack[Options]) -> Iterator[str]:
        """Pieces of the answer. The turn enters `history` only when the caller reads the last piece."""
        text = ""
        for piece in self.video.stream(question, max_new_tokens, tuple(self.history), **options):
            text += piece
            yield piece
        self.history.append((question, text))
