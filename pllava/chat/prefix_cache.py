"""A cache of encoded videos: `chat.cache.stats()`.

The key of a video covers everything that its encoding depends on. The cache is bounded in bytes and evicts the least recently used video
first. An evicted video's memory is freed when the last reference to the video is gone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from pllava.model.shared_prefix import BufferedLayer, SharedPrefixCache, borrowed, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pllava.model.familiarity import ClipDistance
    from pllava.video.frames import VideoFrames

ROOM = 256  # tokens of memory reserved behind a prefix; a question with its answer fits there without a copy of the prefix
TAILS = 4  # conversations of one video whose keys and values are kept for the next question


@dataclass
class Tail:
    """Tokens behind the prefix from one earlier question: ids, and keys and values [1, heads, length, head_dim] of each layer."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for pair in self.layers for tensor in pair)


class EncodedVideo:
    """One encoded video. layers: keys and values from the beginning of the prompt to the video's last token.

    With a template that puts the question before the video, questions share no prefix: layers is None, and visual_tokens [N, D] is set.
    """

    def __init__(
        self,
        frames: VideoFrames | None,
        prefix: list[int],
        layers: list[BufferedLayer] | None,
        visual_tokens: Tensor | None = None,
        distance: ClipDistance | None = None,
    ) -> None:
        self.frames = frames
        self.prefix = prefix  # ids, placeholders expanded
        self.layers = layers
        self.visual_tokens = visual_tokens
        self.distance = distance  # from the training clips; None: the model has no statistics of them
        self.tails: list[Tail] = []  # newest last
        self._room = threading.Lock()  # held while a thread writes behind the prefix
        self._tails = threading.Lock()

    @property
    def bytes(self) -> int:
        total = sum(layer.bytes for layer in self.layers or ()) + sum(tail.bytes for tail in tuple(self.tails))
        if self.visual_tokens is not None:
            total += self.visual_tokens.numel() * self.visual_tokens.element_size()
        return total + (self.frames.frames.nbytes if self.frames is not None else 0)

    def tail_for(self, ids: Sequence[int]) -> tuple[Tail | None, int]:
        """The tail with the longest common beginning with `ids`, and the length of that beginning in tokens; (None, 0) without one.

        The last id does not count: the model must compute its logits.
        """
        with self._tails:
            lengths = [(common(tail.ids, ids[:-1]), tail) for tail in self.tails]
            length, tail = max(lengths, key=lambda pair: pair[0], default=(0, None))
            if tail is not None and length:
                self.tails.remove(tail)
                self.tails.append(tail)
        return (tail, length) if length else (None, 0)

    def keep_tail(self, tail: Tail) -> None:
        """Add a tail as the newest. It replaces every tail that it continues; at most `TAILS` are kept."""
        with self._tails:
            self.tails = [old for old in self.tails if common(old.ids, tail.ids) < len(old.ids)]
            self.tails = [*self.tails, tail][-TAILS:]

    @contextmanager
    def room(self) -> Iterator[bool]:
        """Reserve the memory behind the prefix. Yields False when another thread has reserved it: the caller then works on a copy."""
        reserved = self._room.acquire(blocking=False)
        try:
            yield reserved
        finally:
            if reserved:
                self._room.release()


@contextmanager
def opened(
    videos: Sequence[EncodedVideo], rows: Sequence[int], tail: Tail | None, kept: int, room: int, cancel: threading.Event | None
) -> Iterator[SharedPrefixCache]:
    """A cache for `generate`.

    rows: for each row of the batch, the position of its video in `videos`. tail, kept: for a single row, an earlier tail and the number of
    its tokens to reuse. room: tokens to reserve behind the prefixes.
    """
    alone = videos[0] if len(videos) == 1 and room <= ROOM else None
    with alone.room() if alone else nullcontext(False) as in_place:
        layers = []
        for number in range(len(videos[0].layers or ())):
            own = [video.layers[number] for video in videos if video.layers]
            layers.append(borrowed(own[0], cancel) if in_place else joined(own, room, cancel))
        for layer, (keys, values) in zip(layers, tail.layers if tail else (), strict=False):
            layer.update(keys[:, :, :kept], values[:, :, :kept])
        cache = SharedPrefixCache(layers, rows, layers[0].device, layers[0].dtype)
        try:
            yield cache
        finally:
            cache.layers.clear()  # a traceback or a stopped thread may still refer to the cache; its memory is freed anyway


def tail_of(cache: SharedPrefixCache, prefix: int, ids: list[int]) -> Tail:
    """The tail of a finished single row. prefix: tokens before the tail. ids: of the whole row, prompt and answer."""
    layers = [
        (layer.keys[:, :, prefix : layer.length].clone(), layer.values[:, :, prefix : layer.length].clone()) for layer in cache.layers
    ]
    return Tail(ids[prefix : cache.length], layers)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning of two rows, in tokens."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def split(cache: Cache) -> list[list[BufferedLayer]]:
    """The layers of each video of a batch. Each video gets memory of its own, with `ROOM` tokens reserved behind its prefix."""
    whole: list[Any] = cache.layers
    videos = whole[0].keys.shape[0]
    if videos == 1:
        return [whole]
    return [[joined([part(layer, video)], ROOM) for layer in whole] for video in range(videos)]


def part(layer: BufferedLayer, video: int) -> BufferedLayer:
    """A view of one video of a batch."""
    view = borrowed(layer)
    view.keys, view.values = layer.keys[video : video + 1], layer.values[video : video + 1]
    return view


@dataclass(frozen=True)
class CacheStats:
    hits: int
    misses: int
    evictions: int
    entries: int
    bytes: int
    max_bytes: int


class PrefixCache:
    """Encoded videos by key, for any number of threads. Two threads that need the same new video encode it once."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = self.evictions = 0
        self._entries: OrderedDict[Hashable, EncodedVideo] = OrderedDict()  # least recently used first
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> EncodedVideo | None:
        """The entry of the key, or None. Counts a hit or a miss."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            return entry

    def find_or_make(self, key: Hashable, make: Callable[[], EncodedVideo]) -> EncodedVideo:
        """The entry of the key; a missing entry is made and added."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                entry = self.find(key)
                if entry is None:
                    entry = make()
                    self.add(key, entry)
                return entry
        finally:
            with self._lock:
                if not making.locked():
                    self._making.pop(key, None)

    def add(self, key: Hashable, entry: EncodedVideo) -> None:
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
        self.trim()

    def trim(self) -> None:
        """Evict the least recently used entries until the rest fits in `max_bytes`. An entry above `max_bytes` is evicted at once."""
        with self._lock:
            sizes = {key: entry.bytes for key, entry in self._entries.items()}
            total = sum(sizes.values())
            while total > self.max_bytes and self._entries:
                key, _ = self._entries.popitem(last=False)
                total -= sizes[key]
                self.evictions += 1

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def stats(self) -> CacheStats:
        with self._lock:
            used = sum(entry.bytes for entry in self._entries.values())
            return CacheStats(self.hits, self.misses, self.evictions, len(self._entries), used, self.max_bytes)


def weights_key(model: torch.nn.Module) -> Hashable:
    """A key that changes when weights change in place, or when an adapter is switched, scaled or merged."""
    first = next(model.parameters())
    versions = sum(0 if tensor.is_inference() else tensor._version for tensor in model.parameters())
    adapters: list[Hashable] = []
    if hasattr(model, "peft_config"):
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        for module in model.modules():
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                scaling = tuple(sorted(getattr(module, "scaling", {}).items()))
                adapters.append((module.disable_adapters, tuple(module.active_adapters), getattr(module, "merged", False), scaling))
    return id(model), first.dtype, str(first.device), versions, hash(tuple(adapters))
