"""Training text: a clip's questions and answers -> token ids and labels, as the published training wrote them.

    encode([{"q": "What happens?", "a": "A dog runs."}], tokenizer, load_template("vicuna"), max_length=512)

Text: [instruction sep0] USER: <image>\\n question sep1 ASSISTANT: answer sep1 ... Labels cover the assistant's answers and
their separators. The text is cut at the roles into pieces, and each piece is tokenised alone; only the first gets the begin token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pllava.chat.chat_template import ChatTemplate
from pllava.chat.template import PLACEHOLDER, Template, load_template
from pllava.core.errors import PllavaError

IGNORE = -100  # label of a token that is not supervised


class Encoded(NamedTuple):
    """Lists of equal length; input_ids holds ONE id for the video, which `expand_placeholders` expands."""

    input_ids: list[int]
    labels: list[int]
    attention_mask: list[int]


def training_text(
    qa: Sequence[Mapping[str, str]],
    template: Template | str,
    media_token: str = PLACEHOLDER,
    mm_alone: bool | None = None,
    second_message: str = "",
    markers: Literal["refuse", "keep"] = "refuse",
    media: bool = True,
) -> str:
    """The raw text of one sample.

    qa: turns {"q", "a"} with "i" (instruction) on the first; an empty q is a caption, which has no user message of its own.
    mm_alone: the video gets a user message of its own (None: as the template's mm_style). second_message: text behind the video, such as
    the times of its frames. markers: "refuse" raises PllavaError where a question, instruction or answer holds a role marker or a special
    token; "keep" writes the marker, as the published code did, which changes turns and labels. media: False for text without a video.
    """
    template = template if isinstance(template, Template) else load_template(template)
    user, assistant = template.roles
    between, closing = template.sep
    _check_sample(qa, template, markers)
    if mm_alone is None:
        mm_alone = template.mm_style == "MM_ALONE"
    instruction = qa[0].get("i") or ""
    text = template.system + (instruction + between if instruction else "")
    video = media_token + second_message.rstrip()
    if mm_alone and media:
        text += user + video + between
    for number, turn in enumerate(qa):
        question = turn["q"]
        if number == 0 and media and not mm_alone:
            question = f"{video}\n{question}"
        text += (user + question + closing if question else "") + assistant + turn["a"] + closing
    return text


def training_pieces(qa: Sequence[Mapping[str, str]], template: Template, **options: Any) -> list[tuple[str, bool]]:
    """(text, supervised) of one sample, in order. options: of `training_text`; a chat template reads `media`, `markers`."""
    if isinstance(template, ChatTemplate):
        _check_sample(qa, template, options["markers"])
        return template.training_pieces(qa, options["media"])
    pieces, supervised = [], False
    for piece in split_at_roles(training_text(qa, template, **options), template.roles):
        is_role = piece in template.roles
        pieces.append((piece, supervised and not is_role))
        if is_role:
            supervised = piece == template.roles[1]
    return pieces


def _check_sample(qa: Sequence[Mapping[str, str]], template: Template, markers: Literal["refuse", "keep"]) -> None:
    """Raises PllavaError for a template or a sample that can't be trained on."""
    if template.mm_style == "MM_AFTER":
        raise PllavaError("the conversation template puts the video after the question (MM_AFTER); training puts it first, as published")
    if not qa:
        raise PllavaError("a training sample needs at least one question and answer")
    if markers == "refuse":
        for number, turn in enumerate(qa):
            for key in ("i", "q", "a"):
                template.check(turn.get(key) or "", f"QA[{number}] {key!r}")


def split_at_roles(text: str, roles: Sequence[str]) -> list[str]:
    """Roles of the text and the pieces between the roles, in order. The joined list is the text."""
    return re.split("(" + "|".join(re.escape(role) for role in roles) + ")", text)


def encode(
    qa: Sequence[Mapping[str, str]],
    tokenizer: Any,
    template: Template | str,
    max_length: int,
    *,
    mm_alone: bool | None = None,
    second_message: str = "",
    markers: Literal["refuse", "keep"] = "refuse",
    pad_to_max_length: bool = False,
    media: bool = True,
) -> Encoded:
    """Ids, labels and mask of one sample, cut to `max_length` text tokens (see `training_text` for the other arguments).

    All labels are -100 when the cut removes the whole answer: such a sample teaches nothing, and `prepare` refuses it.
    pad_to_max_length: pad on the right, as the published training does with every sample.
    """
    template = template if isinstance(template, Template) else load_template(template)
    input_ids: list[int] = []
    labels: list[int] = []
    pieces = training_pieces(qa, template, mm_alone=mm_alone, second_message=second_message, markers=markers, media=media)
    for number, (piece, supervised) in enumerate(pieces):
        ids = tokenizer(piece, add_special_tokens=number == 0)["input_ids"]
        input_ids += ids
        labels += ids if supervised else [IGNORE] * len(ids)
    input_ids, labels = input_ids[:max_length], labels[:max_length]
    padding = max_length - len(input_ids) if pad_to_max_length else 0
    return Encoded(
        input_ids + [tokenizer.pad_token_id] * padding,
        labels + [IGNORE] * padding,
        [1] * len(input_ids) + [0] * padding,
    )


def expand_placeholders(input_ids: Sequence[int], labels: Sequence[int], n: int, image_token_id: int) -> tuple[list[int], list[int]]:
    """Ids and labels with each placeholder repeated n times, with label -100."""
    ids: list[int] = []
    targets: list[int] = []
    for token, label in zip(input_ids, labels, strict=True):
        visual = token == image_token_id
        ids += [token] * (n if visual else 1)
        targets += [IGNORE] * n if visual else [label]
    return ids, targets
