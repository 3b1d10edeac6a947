"""Captions of several clips in one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pllava.video.frames import VideoFrames

if TYPE_CHECKING:
    from pllava.chat import Answer, VideoChat

QUESTION = "Describe the video in detail."


def caption_clips(chat: VideoChat, clips: Sequence[VideoFrames], question: str, max_new_tokens: int) -> list[Answer]:
    """One answer to the question for each clip. All clips are encoded and answered in one batch."""
    videos = chat.watch_all(clips, batch_size=len(clips))
    return chat.ask_each(videos, question, max_new_tokens, batch_size=len(clips), stop_at_repetition=True)


def without_cache(chat: VideoChat) -> VideoChat:
    """The same chat with a cache of 0 bytes. Each clip gets one question, so a cache would only take memory."""
    other = copy.copy(chat)
    other.cache = type(chat.cache)(0)
    return other
