"""The cache that `VideoChat` gives to `generate`: rows with one common prefix store the keys and values of the prefix once.

    cache = SharedPrefixCache(layers, videos=[0, 0, 0])     # three questions about the first of the encoded videos
    model.generate(input_ids=rows, attention_mask=mask, past_key_values=cache)

A row is one question (or one beam) about a video. All rows of a video are packed into one sequence after the prefix of the video. Each
token keeps its position in its own row, and an attention mask shows it the prefix and its own row only. So the prefix is never copied, and
it is read once for all rows. Rows of unequal length need no padding. Beams share their common tokens: to choose beams, `generate` reorders
rows of the mask, never keys.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from pllava.core.errors import PllavaError

GROWTH = 256  # tokens; a full buffer grows by at least this many


class Cancelled(PllavaError):
    """The caller set the event that it passed as `cancel`."""


def stop_if(cancel: threading.Event | None) -> None:
    """Raises Cancelled if the event is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled")


class BufferedLayer(CacheLayerMixin):
    """Keys and values [V, heads, capacity, head_dim] of one layer. The first `length` tokens are in use; `update` appends."""

    is_sliding = False

    def __init__(self, room: int = GROWTH, cancel: threading.Event | None = None) -> None:
        super().__init__()
        self.room = room  # tokens that fit behind the tokens of the first update
        self.length = 0
        self.cancel = cancel

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        videos, heads, length, _ = key_states.shape
        self.keys = key_states.new_empty(videos, heads, length + self.room, key_states.shape[-1])
        self.values = value_states.new_empty(videos, heads, length + self.room, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        stop_if(self.cancel)  # checked in every layer, so a forward pass is cancelled before its end
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, tokens: int) -> None:
        """Make the capacity at least `tokens`. A full buffer is copied to a larger one; borrowers keep the old buffer."""
        capacity = self.keys.shape[2]
        if tokens <= capacity:
            return
        capacity = tokens + max(GROWTH, (tokens - self.length) // 2)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(*old.shape[:2], capacity, old.shape[3])
            new[:, :, : self.length] = old[:, :, : self.length]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    @property
    def bytes(self) -> int:
        """Size of the whole buffer, unused capacity included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values) if tensor is not None)


def borrowed(layer: BufferedLayer, cancel: threading.Event | None = None) -> BufferedLayer:
    """A layer on the same buffer, which writes behind the tokens of `layer`. Only one borrower may be in use at a time."""
    copy = BufferedLayer(cancel=cancel)
    copy.keys, copy.values, copy.length = layer.keys, layer.values, layer.length
    copy.dtype, copy.device, copy.is_initialized = layer.dtype, layer.device, True
    return copy


def joined(layers: Sequence[BufferedLayer], room: int, cancel: threading.Event | None = None) -> BufferedLayer:
    """One layer with a copy of the layers of several videos (equal lengths), and capacity for `room` more tokens."""
    copy = BufferedLayer(room, cancel)
    length = layers[0].length
    heads, _, width = layers[0].keys.shape[1:]
    copy.keys = layers[0].keys.new_empty(len(layers), heads, length + room, width)
    copy.values = layers[0].values.new_empty(len(layers), heads, length + room, layers[0].values.shape[-1])
    for index, layer in enumerate(layers):
        copy.keys[index, :, :length] = layer.keys[0, :, :length]
        copy.values[index, :, :length] = layer.values[0, :, :length]
    copy.dtype, copy.device, copy.length, copy.is_initialized = layers[0].dtype, layers[0].device, length, True
    return copy


class SharedPrefixCache(Cache):
    """Keys and values of V videos' prefixes and of the rows that follow them.

    layers: the prefixes, all of one length. videos: for each of the R rows of `generate`'s batch, the index of its video.
    `pack` turns the new tokens of all rows into the arguments of one model call. `unpack` turns its logits into logits of the rows.
    G is the largest number of rows of one video. Every video has G slots, one a row; a video with fewer rows leaves some slots empty.
    """

    def __init__(self, layers: list[BufferedLayer], videos: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=layers)
        self.videos = list(videos)
        self.device, self.dtype = device, dtype
        self.prefix = layers[0].length
        self.num_videos = layers[0].keys.shape[0]
        ordinals = [self.videos[:row].count(video) for row, video in enumerate(self.videos)]
        self.group = max(ordinals) + 1
        self.slots = torch.tensor([video * self.group + k for video, k in zip(self.videos, ordinals, strict=True)], device=device)
        self.logit_index = self.slots  # [R]: index of each row's logits in the flattened output of the last call
        self.positions = torch.zeros(self.num_videos * self.group, dtype=torch.long, device=device)  # [V * G], of the next tokens
        self.next_mask: Tensor | None = None  # additive mask [V, G, capacity] of the next tokens: 0 where a token is visible

    @property
    def length(self) -> int:
        """Tokens of a video's sequence: its prefix and all tokens packed behind the prefix."""
        return self.layers[0].length

    def pack(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
        """New tokens [R, n] of all rows -> arguments of the model. A mask of 0 marks padding. After the first call, n is 1."""
        if self.next_mask is None:
            return self._begin(input_ids, attention_mask)
        videos, group, length = self.num_videos, self.group, self.length
        ids = input_ids.new_zeros(videos * group).index_copy_(0, self.slots, input_ids[:, -1])
        mask = None
        if videos * group > 1:
            self._make_room(length + group)
            own = torch.arange(group, device=self.device)
            self.next_mask[:, own, length + own] = 0
            mask = self.next_mask[:, None, :, : length + group]
        self.logit_index = self.slots
        positions, self.positions = self.positions, self.positions + 1
        return self._inputs(ids.view(videos, group), positions.view(videos, group), mask, group)

    def _begin(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
        """Arguments of the first call. Equal rows of a video (beams) are packed once.

        The packed sequence of a video holds the tokens of every distinct row but its last, then the last token of every distinct row.
        """
        row_tokens = input_ids.tolist()
        if attention_mask is not None:
            masks = attention_mask[:, -input_ids.shape[1] :].tolist()
            row_tokens = [
                [token for token, seen in zip(row, mask, strict=True) if seen] for row, mask in zip(row_tokens, masks, strict=True)
            ]
        distinct: list[dict[tuple[int, ...], int]] = [{} for _ in range(self.num_videos)]
        distinct_index = [
            distinct[video].setdefault(tuple(row), len(distinct[video])) for video, row in zip(self.videos, row_tokens, strict=True)
        ]
        num_last = max(len(rows) for rows in distinct)
        num_body = max(sum(len(row) - 1 for row in rows) for rows in distinct)
        shape = (self.num_videos, num_body + num_last)
        # [V, N] each: token, position, index of the distinct row (-1: padding), and index in the row
        ids, positions, owner, order = ([[fill] * shape[1] for _ in range(shape[0])] for fill in (0, 0, -1, 0))
        for video, rows in enumerate(distinct):
            body_column = 0
            for row, number in rows.items():
                for k, token in enumerate(row):
                    last = k == len(row) - 1
                    column = num_body + number if last else body_column
                    ids[video][column] = token
                    positions[video][column] = self.prefix + k
                    owner[video][column] = number
                    order[video][column] = k
                    body_column += not last
        ids_, positions_, owner_, order_ = (torch.tensor(values, device=self.device) for values in (ids, positions, owner, order))
        own = owner_[:, :, None] == owner_[:, None, :]
        sees = own & (order_[:, None, :] <= order_[:, :, None])
        mask = torch.zeros(*shape, self.prefix + shape[1], dtype=self.dtype, device=self.device)
        mask[:, :, self.prefix :].masked_fill_(~sees, torch.finfo(self.dtype).min)

        # The next token of a row sees the prefix, and the tokens of the distinct row that equals the row.
        self.next_mask = torch.full((self.num_videos * self.group, 0), torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device)
        self.next_mask = self.next_mask.view(self.num_videos, self.group, 0)
        self._make_room(self.prefix + shape[1])
        self.next_mask[:, :, : self.prefix] = 0
        rows_ = self.next_mask.view(self.num_videos * self.group, -1)
        video_index = torch.tensor(self.videos, device=self.device)
        own_tokens = owner_[video_index] == torch.tensor(distinct_index, device=self.device)[:, None]  # [R, N]
        row_masks = rows_[self.slots]
        row_masks[:, self.prefix : self.prefix + shape[1]].masked_fill_(own_tokens, 0)
        rows_[self.slots] = row_masks
        self.positions[self.slots] = torch.tensor([self.prefix + len(row) for row in row_tokens], device=self.device)
        self.logit_index = video_index * num_last + torch.tensor(distinct_index, device=self.device)
        return self._inputs(ids_, positions_, mask[:, None], num_last)

    @staticmethod
    def _inputs(ids: Tensor, positions: Tensor, mask: Tensor | None, keep: int) -> dict[str, Any]:
        return {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "logits_to_keep": keep}

    def _make_room(self, tokens: int) -> None:
        """Widen `next_mask` to at least `tokens` columns; the new columns are invisible."""
        assert self.next_mask is not None
        missing = tokens - self.next_mask.shape[2]
        if missing > 0:
            more = self.next_mask.new_full((*self.next_mask.shape[:2], missing + GROWTH), torch.finfo(self.dtype).min)
            self.next_mask = torch.cat([self.next_mask, more], dim=2)

    def unpack(self, logits: Tensor) -> Tensor:
        """[V, kept, vocabulary] -> [R, 1, vocabulary]."""
        return logits.flatten(0, 1)[self.logit_index.to(logits.device)].unsqueeze(1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i continues row beam_idx[i] of the same video: it takes the mask of that row."""
        assert self.next_mask is not None
        rows = self.next_mask.view(self.num_videos * self.group, -1)
        self.next_mask = rows.index_copy(0, self.slots, rows[self.slots[beam_idx.to(self.device)]]).view_as(self.next_mask)
