"""One question about one clip, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pllava.app.source import choose, describe_runtime, load_chat
from pllava.params import Params


def ask(
    params: Params,
    video: Path,
    question: str,
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    max_new_tokens: int = 100,
    lora_alpha: float | None = None,
    say: Callable[[object], None] = print,
) -> str:
    """The answer. `say` is told which model, device and video reader were used. Raises PllavaError for an unreadable clip or model."""
    from pllava.video.reader import probe

    probe(video)  # an unreadable clip is found before the weights are read
    source = choose(params, model, adapter, template)
    say(f"model: {source.name} ({source.why})")
    chat = load_chat(source, lora_alpha)
    watched = chat.watch(video)
    frames = watched.frames
    say(f"runs on {describe_runtime(chat.model)}; template {source.template}")
    say(f"video: {len(frames.frames)} of {frames.num_frames_total} frames, {frames.duration:.1f} s, read by {frames.reader}")
    return watched.ask(question, max_new_tokens=max_new_tokens).text
