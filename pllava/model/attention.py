"""Attention over a packed row: `use_packed_attention(model)`, then `model(..., position_ids=positions, segments=segments)`.

A packed row holds several samples, one after the other. Attention runs causally inside each sample (segment), so samples don't see each
other, and no [S, S] mask is made. A segment with a tree mask has a causal prefix, and R last positions with their own mask, [R, segment].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pllava.core.errors import PllavaError

PACKED = "pllava_packed_sdpa"


class Segment(NamedTuple):
    """One sample of a packed row. `mask`: bool [1, 1, R, length], True where one of the last R positions sees a token. None: causal."""

    length: int
    mask: Tensor | None = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Sequence[Segment] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa for each segment in turn. query, key, value [1, heads, S, head_dim] -> [1, S, heads, head_dim]."""
    if not segments:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    lengths = [segment.length for segment in segments]
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = []
    for segment, (q, k, v) in zip(segments, parts, strict=True):
        if segment.mask is None:
            outputs.append(sdpa_attention_forward(module, q, k, v, None, **kwargs)[0])
            continue
        rest = segment.mask.shape[2]
        shared = segment.length - rest
        prefix = [tensor[:, :, :shared] for tensor in (q, k, v)]
        outputs.append(sdpa_attention_forward(module, *prefix, None, **kwargs)[0])
        outputs.append(sdpa_attention_forward(module, q[:, :, shared:], k, v, segment.mask.to(q.device), **kwargs)[0])
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(PACKED, packed_attention)


def use_packed_attention(model: Any) -> None:
    """Make the language model of a loaded model accept `segments`. flash_attention_2 finds the segments in the position ids instead.

    Raises PllavaError for any other attention than these two, and for a language model with a sliding window.
    """
    config = model.model.language_model.config
    if config._attn_implementation == "flash_attention_2":
        return
    if config._attn_implementation != "sdpa":
        raise PllavaError(f"train.packing needs model.attn_implementation sdpa or flash_attention_2, not {config._attn_implementation}")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise PllavaError("train.packing: this language model attends through a sliding window. Set train.packing: false in params.yaml")
    config._attn_implementation = PACKED
