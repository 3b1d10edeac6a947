"""Questions that share one clip and do not see each other: `train.turns: independent`.

In a conversation a later question sees the earlier answers, and the model may copy from them. Branches prevent this: each question
continues the same prefix (begin token, role, video), as in single-turn chat. The visual tokens are still computed once for all answers.

    prefix | question 1, answer 1 | question 2, answer 2 | ...      turn: 0 0 0 | 1 1 1 | 2 2 2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pllava.chat.conversation import IGNORE, encode
from pllava.chat.template import Template


class Branches(NamedTuple):
    """Lists of equal length. `turn`: 0 in the shared prefix, then 1, 2, ... for each question with its answer."""

    input_ids: list[int]
    labels: list[int]
    turn: list[int]


def encode_branches(
    qa: Sequence[Mapping[str, str]], tokenizer: Any, template: Template, max_length: int, image_token_id: int, media: bool = True
) -> Branches:
    """Encode each question as its own conversation. The tokens up to the placeholder are the shared prefix and stand once.

    The instruction of the first turn opens every branch. A question is left out when it does not fit in the remaining `max_length` text
    tokens, or when its prefix differs from the first one's. A first question that is too long is cut instead, unless the cut removes its
    whole answer.
    """
    prefix: list[int] = []
    ids: list[int] = []
    labels: list[int] = []
    turn: list[int] = []
    for question in qa:
        alone = encode([{**question, "i": qa[0].get("i") or ""}], tokenizer, template, max_length, markers="keep", media=media)
        if all(label == IGNORE for label in alone.labels):
            continue
        cut = alone.input_ids.index(image_token_id) + 1 if media else 1  # text alone shares its first token
        if not ids:
            prefix = alone.input_ids[:cut]
            ids, labels, turn = list(prefix), alone.labels[:cut], [0] * cut
        elif alone.input_ids[:cut] != prefix or len(ids) + len(alone.input_ids) - cut > max_length:
            continue
        ids += alone.input_ids[cut:]
        labels += alone.labels[cut:]
        turn += [turn[-1] + 1] * (len(alone.input_ids) - cut)
    return Branches(ids, labels, turn)


def branch_positions(turn: Tensor) -> Tensor:
    """turn [B, S] (padding -1) -> position_ids [B, S]: the positions of every branch continue from the end of the prefix."""
    start = torch.arange(turn.shape[1]).expand_as(turn)
    opens = torch.ones_like(turn, dtype=torch.bool)
    opens[:, 1:] = turn[:, 1:] != turn[:, :-1]
    first = torch.where(opens, start, 0).cummax(dim=1).values
    prefix = (turn == 0).sum(1, keepdim=True)
    return torch.where(turn > 0, start - first + prefix, start)


def branch_mask(turn: Tensor) -> Tensor:
    """turn [B, S] -> bool [B, 1, S, S]: causal; a branch sees only the prefix and itself."""
    size = turn.shape[1]
    same = (turn[:, None, :] == 0) | (turn[:, None, :] == turn[:, :, None])
    return (same & torch.ones(size, size, dtype=torch.bool).tril())[:, None]


def branch_rest_mask(turn: Tensor) -> Tensor | None:
    """turn [1, S] without padding -> bool [1, 1, R, S]: the R rows of `branch_mask` after the prefix; None with fewer than two branches."""
    shared = int((turn == 0).sum())
    if int(turn.max()) <= 1:
        return None
    rest = turn[:, shared:, None]
    same = (turn[:, None, :] == 0) | (turn[:, None, :] == rest)
    size = turn.shape[1]
    return (same & torch.ones(size - shared, size, dtype=torch.bool).tril(shared))[:, None]
