"""Several clips, one question: the captions of a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pllava.video.frames import VideoFrames

if TYPE_CHECKING:
    from pllava.chat import VideoChat

QUESTION = "Describe the video in detail."


def caption_clips(chat: VideoChat, clips: Sequence[VideoFrames], question: str, max_new_tokens: int) -> list[str]:
    """One answer a clip, all clips at once."""
    videos = chat.watch_all(clips, batch_size=len(clips))
    return [answer.text for answer in chat.ask_each(videos, question, max_new_tokens, batch_size=len(clips))]


def without_cache(chat: VideoChat) -> VideoChat:
    """The same chat, keeping nothing of what it has encoded: each clip is asked about once, and memory must not grow with their number."""
    other = copy.copy(chat)
    other.cache = type(chat.cache)(0)
    return other
