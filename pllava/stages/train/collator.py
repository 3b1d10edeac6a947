"""Samples -> one padded or packed batch: `Collator(image_token_id, num_visual_tokens, pad_token_id)(samples)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pllava.chat.conversation import IGNORE, expand_placeholders
from pllava.model.attention import Segment
from pllava.stages.train.dataset import TrainSample
from pllava.stages.train.tree_mask import branch_mask, branch_positions, branch_rest_mask


class Batch(dict[str, Any]):
    """The model's inputs as items, and counts for the meters as attributes."""

    samples: int
    tokens: int  # without padding
    visual_tokens: int
    replaced: list[tuple[str, str]]  # clips that could not be read: (row id, reason)


@dataclass(frozen=True)
class Collator:
    """Expands each placeholder to N visual tokens and pads on the right, so that causal attention needs no mask.

    The batch: input_ids, labels, attention_mask [B, L]; vision_features [V, T, P, Dv] or pixel_values_videos [V, T, 3, H, W], which are a
    list when clips differ in their number of frames (a still has one). With independent turns attention_mask is [B, 1, L, L] and there are
    position_ids [B, L].

    packed: the samples stand in one row: B = 1, and L is the sum of their lengths. position_ids begin at 0 in each sample, `segments` holds
    the length of each sample (pllava.model.attention), and there is no attention_mask.
    """

    image_token_id: int
    num_visual_tokens: int
    pad_token_id: int
    vision_key: str = "vision_features"
    packed: bool = False

    def __call__(self, samples: list[TrainSample]) -> Batch:
        batch = Batch(self._pack(samples) if self.packed else self._pad(samples))
        clips = [sample.vision for sample in samples if sample.vision is not None]
        if clips:  # samples of text alone have none
            batch[self.vision_key] = torch.stack(clips) if len({clip.shape for clip in clips}) == 1 else clips
        batch.samples = len(samples)
        batch.visual_tokens = len(clips) * self.num_visual_tokens
        batch.tokens = sum(len(sample.input_ids) - (sample.vision is not None) for sample in samples) + batch.visual_tokens
        batch.replaced = [pair for sample in samples for pair in sample.replaced]
        return batch

    def _pad(self, samples: list[TrainSample]) -> dict[str, Any]:
        pairs = [expand_placeholders(s.input_ids, s.labels, self.num_visual_tokens, self.image_token_id) for s in samples]
        lengths = torch.tensor([len(ids) for ids, _ in pairs])
        batch = {
            "input_ids": pad([ids for ids, _ in pairs], self.pad_token_id),
            "labels": pad([labels for _, labels in pairs], IGNORE),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        }
        if all(sample.turn for sample in samples):
            visual = [0] * (self.num_visual_tokens - 1)  # the placeholder is in the prefix
            turn = pad([(visual if sample.vision is not None else []) + (sample.turn or []) for sample in samples], -1)
            batch |= {"attention_mask": branch_mask(turn), "position_ids": branch_positions(turn)}
        return batch

    def _pack(self, samples: list[TrainSample]) -> dict[str, Any]:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[Tensor] = []
        segments: list[Segment] = []
        for sample in samples:
            own_ids, own_labels = expand_placeholders(sample.input_ids, sample.labels, self.num_visual_tokens, self.image_token_id)
            ids += own_ids
            labels += [IGNORE, *own_labels[1:]]  # nothing before a sample predicts its first token
            if sample.turn:
                turn = torch.tensor([[0] * (len(own_ids) - len(sample.turn)) + sample.turn])
                positions.append(branch_positions(turn))
                segments.append(Segment(len(own_ids), branch_rest_mask(turn)))
            else:
                positions.append(torch.arange(len(own_ids))[None])
                segments.append(Segment(len(own_ids)))
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.cat(positions, dim=1),
            "segments": segments,
        }


def pad(rows: list[Any], value: int) -> Tensor:
    """Integer rows of different lengths -> int64 [B, longest], filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
