"""A chat with the tiny random model, and the plain path it must equal: the whole prompt, video and all, through `model.generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pllava.chat import VideoChat, WatchedVideo


@pytest.fixture
def chat(tiny_model: Any, tiny_processor: Any) -> VideoChat:
    return VideoChat(tiny_model, tiny_processor, "vicuna")


@pytest.fixture
def clip(reference: Path) -> Path:
    return reference / "video" / "clip_long.mp4"


@pytest.fixture
def video(chat: VideoChat, clip: Path) -> WatchedVideo:
    return chat.watch(clip)


@pytest.fixture(scope="session")
def plain() -> Callable[..., list[int]]:
    """New token ids of one question, everything computed for it alone."""

    def answer(video: WatchedVideo, question: str, history: Any = (), max_new_tokens: int = 8, seed: int | None = None, **options: Any):
        chat = video.chat
        batch = chat.processor(text=chat.template.prompt_for(question, history), videos=[video.frames.frames])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            return chat.generate(**batch, **chat.settings(max_new_tokens, **options))[0]

    return answer
