"""Conversation templates as data: `Template` is a file of `templates/`, read and checked.

A template defines how a conversation is written for the language model. The hash of the template is recorded with every result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_of

PLACEHOLDER = "<image>"
SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", PLACEHOLDER, "<|im_start|>", "<|im_end|>", "<|startoftext|>", "<|endoftext|>")

Message = tuple[str, str]  # role string of the template, text


class Template(BaseModel):
    """A conversation template. The field names are the names of the published conversations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = ""
    roles: tuple[str, str] = Field(description="written before a user's and an assistant's message")
    sep: tuple[str, str] = Field(description="written after system and user messages, and after assistant messages")
    mm_token: str = Field(description="stands for the video; holds <image> once")
    mm_style: Literal["MM_INTERLEAF", "MM_ALONE", "MM_AFTER"] = Field(
        "MM_INTERLEAF",
        description="the video at the beginning of the first user message, in a user message of its own before it, or at the end of it "
        "(then questions share nothing of a video but its encoding)",
    )
    mm_join: str = Field(" ", description="between the video and the question (MM_INTERLEAF, MM_AFTER)")
    pre_query_prompt: str | None = Field(None, description="before each question, joined by a space")
    post_query_prompt: str | None = Field(None, description="after each question, joined by a space")
    answer_prompt: str | None = Field(None, description="the assistant's message is begun with this")
    return_prompt: str = Field("", description="put before an answer once answer_prompt is taken off")

    @property
    def sha256(self) -> str:
        """Hash of the values. Comments and the order of keys in the file do not change the hash."""
        return sha256_of(self.model_dump())

    def messages(self, question: str, history: Sequence[tuple[str, str]] = (), media: bool = True) -> list[Message]:
        """Messages of the earlier turns and the new question. history: (question, answer) pairs, oldest first. media: with the video.

        Raises PllavaError when a user's words hold a marker of the template.
        """
        user, assistant = self.roles
        messages: list[Message] = []
        for number, (query, answer) in enumerate([*history, (question, None)]):
            self.check(query)
            text = " ".join(part for part in (self.pre_query_prompt, query, self.post_query_prompt) if part is not None)
            if number == 0 and media and self.mm_style == "MM_ALONE":
                messages.append((user, self.mm_token))
            elif number == 0 and media:
                text = text + self.mm_join + self.mm_token if self.mm_style == "MM_AFTER" else self.mm_token + self.mm_join + text
            messages.append((user, text))
            if answer is not None:
                _check_text(answer, "an earlier answer", (PLACEHOLDER,))  # an answer of the model may hold other markers
                messages.append((assistant, answer))
        if self.answer_prompt is not None:
            messages.append((assistant, self.answer_prompt))
        return messages

    def prompt_for(self, question: str, history: Sequence[tuple[str, str]] = (), media: bool = True) -> str:
        """The whole prompt, ready for the tokenizer."""
        return self.write(self.messages(question, history, media))

    def write(self, messages: Sequence[Message], system: str | None = None) -> str:
        """Join messages. A last message of the assistant gets no separator; after a last user message the assistant's role is added."""
        system = self.system if system is None else system
        text = system + self.sep[0] if system else ""
        for number, (role, content) in enumerate(messages):
            which = self.roles.index(role)
            last = number == len(messages) - 1
            text += role + content + ("" if last and which == 1 else self.sep[which])
        return text + self.roles[1] if messages and messages[-1][0] == self.roles[0] else text

    @cached_property
    def markers(self) -> tuple[str, ...]:
        """Texts that a user's words must not hold: they would end the message, or stand for another video. Longest first."""
        own = {part.strip() for part in (*self.roles, *self.sep, self.mm_token)}
        return tuple(sorted((own | set(SPECIAL)) - {""}, key=lambda marker: (-len(marker), marker)))

    def check(self, text: str, what: str = "the question") -> None:
        """Raises PllavaError when `text` holds a marker."""
        _check_text(text, what, self.markers)

    def trim_reply(self, generated: str) -> str:
        """The answer in the generated text (decoded with or without special tokens).

        After an answer prompt, white space at the beginning of the text stays, as published: "(" and " A" give "( A".
        """
        reply = generated.rstrip().removesuffix(self.sep[1].strip()).rstrip()
        return reply.strip() if self.answer_prompt is None else self.answer_in(self.answer_prompt + reply)

    def reply_in(self, decoded: str) -> str:
        """The assistant's last message in a decoded conversation, without the closing separator."""
        # Decoding writes a space after a special token, so the role has a space there as well.
        role = self.roles[1].replace("<|im_start|>", "<|im_start|> ")
        # removesuffix, not rstrip: rstrip removes a set of characters, and "yes</s>" would become "ye".
        return decoded.split(role)[-1].strip().removesuffix(self.sep[1].strip()).strip()

    def answer_in(self, reply: str) -> str:
        """The reply without the answer prompt at its beginning. A reply without the answer prompt gives an empty answer, as published."""
        if self.answer_prompt is None:
            return reply
        return (self.return_prompt + "".join(reply.split(self.answer_prompt.strip())[1:])).strip()


def _check_text(text: str, what: str, markers: Sequence[str]) -> None:
    for marker in markers:
        if marker in text:
            raise PllavaError(f"{what} holds {marker!r}, which has a meaning of its own in this conversation template. Reword it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PllavaError(f"{what} holds {text[error.start]!r}, half of a character, which no tokenizer reads. Remove it") from None


def to_messages(template: Template, messages: Sequence[Any]) -> list[Message]:
    """Pairs (role string, text) as the published code keeps them, or dicts {"role": "user" | "assistant", "content"}.

    Pairs keep the placeholders at their beginning. Dicts hold a user's words; the template puts the video first.
    """
    if messages and isinstance(messages[0], Mapping):
        return _from_dicts(template, messages)
    pairs = []
    for role, text in messages:
        if role not in template.roles:
            raise PllavaError(f"role {role!r} is not one of this template's: {template.roles[0]!r}, {template.roles[1]!r}")
        if role == template.roles[0]:
            template.check(re.sub(r"^(<image>?\s*)+", "", text or ""), "a user message")
        pairs.append((role, text or ""))
    return pairs


def _from_dicts(template: Template, messages: Sequence[Mapping[str, str]]) -> list[Message]:
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2):
        raise PllavaError(f"messages have roles {roles}; user and assistant must alternate, user first")
    texts = [message["content"] for message in messages]
    if len(texts) % 2:
        return template.messages(texts[-1], list(zip(texts[:-1:2], texts[1::2], strict=True)))
    open_reply = template.model_copy(update={"answer_prompt": texts[-1]})
    return open_reply.messages(texts[-2], list(zip(texts[:-2:2], texts[1:-2:2], strict=True)))
