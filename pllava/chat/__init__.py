"""Talking about a video: conversation templates, and `VideoChat`, which encodes a video once and answers many questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pllava.chat.template import Template, load_template, to_messages

if TYPE_CHECKING:
    from pllava.chat.video_chat import Answer, Conversation, VideoChat, WatchedVideo

__all__ = ["Answer", "Conversation", "Template", "VideoChat", "WatchedVideo", "load_template", "render"]


def render(template: Template | str, messages: Sequence[Any], system: str | None = None) -> str:
    """The prompt of a conversation.

    messages: (role string, text) pairs that hold the placeholders, as published; or dicts {"role": "user" | "assistant", "content"},
    to which the template adds the video and its pre- and post-query prompts. system: replaces the template's system text.
    Raises PllavaError when a user's words hold a role marker, a separator, `<image>` or another special token.
    """
    if not isinstance(template, Template):
        template = load_template(template)
    return template.write(to_messages(template, messages), system)


def __getattr__(name: str) -> Any:
    if name in ("Answer", "Conversation", "VideoChat", "WatchedVideo"):  # they import torch
        from pllava.chat import video_chat

        return getattr(video_chat, name)
    raise AttributeError(f"module 'pllava.chat' has no attribute {name!r}")
