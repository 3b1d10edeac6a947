"""Samples -> one padded batch: `Collator(image_token_id, num_visual_tokens, pad_token_id)(samples)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pllava.data.branches import branch_mask, branch_positions
from pllava.data.conversation import IGNORE, expand_placeholders
from pllava.data.dataset import TrainSample


@dataclass(frozen=True)
class Collator:
    """Expands each placeholder to N visual tokens and pads on the right, so that causal attention needs no mask.

    The batch: input_ids, labels, attention_mask [B, L]; vision_features [V, T, P, Dv] or pixel_values_videos [V, T, 3, H, W] (a list
    when clips differ in frames, as stills do). With independent turns attention_mask is [B, 1, L, L] and there are position_ids [B, L].
    """

    image_token_id: int
    num_visual_tokens: int
    pad_token_id: int
    vision_key: str = "vision_features"

    def __call__(self, samples: list[TrainSample]) -> dict[str, Any]:
        pairs = [expand_placeholders(s.input_ids, s.labels, self.num_visual_tokens, self.image_token_id) for s in samples]
        clips: list[Tensor] = [sample.vision for sample in samples]
        same = len({clip.shape for clip in clips}) == 1
        lengths = torch.tensor([len(ids) for ids, _ in pairs])
        batch = {
            "input_ids": pad([ids for ids, _ in pairs], self.pad_token_id),
            "labels": pad([labels for _, labels in pairs], IGNORE),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            self.vision_key: torch.stack(clips) if same else clips,
        }
        if all(sample.turn for sample in samples):
            visual = [0] * (self.num_visual_tokens - 1)  # the placeholder is in the prefix
            turn = pad([visual + (sample.turn or []) for sample in samples], -1)
            batch |= {"attention_mask": branch_mask(turn), "position_ids": branch_positions(turn)}
        return batch


def pad(rows: list[Any], value: int) -> Tensor:
    """Integer rows of different lengths -> int64 [B, longest], filled with `value` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
