"""One model for all visitors: a lock, limits on the clips, and settings that hold for one question only.

Clips stay encoded in the chat's own cache (`VideoChat.cache`, bounded in bytes), so a follow-up question computes only its own tokens.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pllava.apps.demo.record import Record
from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

if TYPE_CHECKING:
    from pllava.chat import VideoChat, WatchedVideo
    from pllava.chat.model_ref import ModelRef
    from pllava.video.readers import Readers

MOST_FRAMES = 64
LIMITS = Limits(max_bytes=200 << 20, max_seconds=30 * 60, max_decoded_bytes=1 << 30)  # of a clip that a stranger may upload


@dataclass(frozen=True)
class Settings:
    """How one question is answered. None: as the model was loaded. Raises PllavaError for values out of range."""

    system: str | None = None
    num_frames: int | None = None
    num_beams: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 200
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        checks = {
            f"frames must be between 1 and {MOST_FRAMES}": self.num_frames is None or 1 <= self.num_frames <= MOST_FRAMES,
            "beams must be between 1 and 8": 1 <= self.num_beams <= 8,
            "the temperature must be between 0 and 2": 0 <= self.temperature <= 2,
            "the answer must be between 1 and 2,048 tokens long": 1 <= self.max_new_tokens <= 2048,
            "alpha must be between 0 and 1,024": self.lora_alpha is None or 0 <= self.lora_alpha <= 1024,
        }
        if problems := [problem for problem, valid in checks.items() if not valid]:
            raise PllavaError("; ".join(problems))


class ChatEngine:
    """Answers questions one at a time."""

    def __init__(self, chat: VideoChat, limits: Limits = LIMITS) -> None:
        from pllava.model.adapter import get_lora_alpha

        self.chat = chat
        self.limits = limits
        self.readers: Readers | None = (
            None  # processes that read clips; a clip that hangs or kills its reader is an error for one visitor only
        )
        self.source: ModelRef | None = None  # the model that `chat` was loaded from, for the page
        self._lock = threading.Lock()  # not an RLock: a stream may be advanced and closed by different threads
        self.lora_alpha = get_lora_alpha(chat.model)

    def watch(self, path: str | Path, settings: Settings | None = None) -> WatchedVideo:
        """A clip, decoded and encoded or from the cache. Raises PllavaError when the clip cannot be read or is too large."""
        with self.use(settings) as chat:
            return _watch(chat, path)

    def ask(self, path: str | Path, question: str, settings: Settings | None = None) -> str:
        """The whole answer. Raises PllavaError as `watch` does, and for a question that cannot be asked."""
        settings = settings or Settings()
        with self.use(settings) as chat:
            return _watch(chat, path).ask(question, **_options(settings)).text

    def stream(
        self,
        path: str | Path,
        question: str,
        history: Sequence[tuple[str, str]] = (),
        settings: Settings | None = None,
        note: Callable[[Record], object] | None = None,
    ) -> Iterator[str]:
        """Yields the answer so far, longer each time. Closing the iterator stops the model.

        history: (question, answer) pairs, oldest first. note: called with the record of the answer before the first piece; the
        record has tokens and seconds when the answer is whole.
        """
        settings = settings or Settings()
        with self.use(settings) as chat:
            began, answer = time.monotonic(), ""
            watched = _watch(chat, path)
            stream = watched.streamed(question, history=history, **_options(settings))
            record = self._record(settings, chat, watched)
            if note is not None:
                note(record)
            pieces = cast("Generator[str]", stream.pieces())
            with closing(pieces):  # stops the model before the lock is free
                for piece in pieces:
                    answer += piece
                    yield answer
            record.seconds, record.tokens = round(time.monotonic() - began, 3), len(stream.answer.token_ids) if stream.answer else 0

    def _record(self, settings: Settings, chat: VideoChat, watched: WatchedVideo) -> Record:
        values = asdict(settings) | {
            "system": chat.template.system,
            "num_frames": chat.processor.num_frames,
            "lora_alpha": self.lora_alpha if settings.lora_alpha is None else settings.lora_alpha,
        }
        version, times = self.source.version if self.source else None, [round(float(time), 3) for time in watched.frames.times]
        began_at = datetime.now(UTC).isoformat(timespec="seconds")
        return Record(self.credit(settings), version, values, times, round(watched.frames.duration, 3), began_at)

    def credit(self, settings: Settings) -> str:
        """The model that answers with these settings: its name and LoRA alpha. Call it inside `use`, so that no switch comes in between."""
        name = self.source.name.removesuffix(" (champion)") if self.source else ""  # the alias may move to another version later
        alpha = self.lora_alpha if settings.lora_alpha is None else settings.lora_alpha
        return ", ".join(filter(None, [name, "" if self.lora_alpha is None else f"LoRA alpha {alpha:g}"]))

    @contextmanager
    def use(self, settings: Settings | None = None) -> Iterator[VideoChat]:
        """The chat with these settings, for one visitor at a time."""
        with self._lock, self._set(settings or Settings()) as chat:
            yield chat

    @contextmanager
    def _set(self, settings: Settings) -> Iterator[VideoChat]:
        """A copy of the chat with these settings and the same cache. The shared model is as before afterwards."""
        chat = copy.copy(self.chat)
        chat.limits, chat.readers = self.limits, self.readers
        if settings.system is not None and settings.system != chat.template.system:
            chat.template.check(settings.system, "the system prompt")
            chat.template = chat.template.model_copy(update={"system": settings.system})
        config, frames = _config(chat.model), _config(chat.model).num_frames
        alpha = self.lora_alpha if settings.lora_alpha is None else settings.lora_alpha
        rescaled = self.lora_alpha is not None and alpha != self.lora_alpha
        try:
            if settings.num_frames is not None:
                chat.processor = copy.copy(chat.processor)
                chat.processor.num_frames = config.num_frames = settings.num_frames
            if rescaled:
                _set_lora_alpha(chat.model, alpha)
            yield chat
        finally:
            config.num_frames = frames
            if rescaled:
                _set_lora_alpha(chat.model, self.lora_alpha)


def _watch(chat: VideoChat, path: str | Path) -> WatchedVideo:
    if not Path(path).is_file():
        raise PllavaError(f"{Path(path).name} is no longer here: a file is removed when its page is closed. Upload it again")
    return chat.watch(path)


def _options(settings: Settings) -> dict[str, Any]:
    """Arguments of `ask` and `stream`."""
    options: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature, "stop_at_repetition": True}
    if settings.num_beams > 1:
        options["num_beams"] = settings.num_beams
    return options


def _config(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "peft_config") else model).config


def _set_lora_alpha(model: Any, alpha: float | None) -> None:
    from pllava.model.adapter import set_lora_alpha

    if alpha is not None:
        set_lora_alpha(model, alpha)
