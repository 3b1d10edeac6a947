"""One question about one clip, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pllava.chat.model_ref import describe_runtime
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.model.familiarity import FAR
from pllava.registry.default_model import choose


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
    """The answer. `say` gets lines that name the model, the device and the video reader.

    Raises PllavaError for an unreadable clip or model, and for a question that is empty or holds a marker of the template.
    """
    from pllava.chat.template import load_template
    from pllava.video.readers import Readers

    # The user's mistakes are reported before the weights are read.
    if not question.strip():
        raise PllavaError('the question is empty; for example: pllava ask clip.mp4 "What happens?"')
    readers = Readers(1)
    readers.probe(video)
    source = choose(params, model, adapter, template)
    load_template(source.template).check(question)
    say(f"model: {source.name}, {source.why}")
    chat = source.load(lora_alpha)
    chat.readers = readers
    watched = chat.watch(video)
    frames = watched.frames
    say(f"runs on {describe_runtime(chat.model)}; template {source.template}")
    say(f"video: {len(frames.frames)} of {frames.num_frames_total} frames, {frames.duration:.1f} s, read by {frames.read_by}")
    if watched.far:
        say(FAR)
    answer = watched.ask(question, max_new_tokens=max_new_tokens, stop_at_repetition=True)
    if answer.stopped:
        say(f"the answer ends here because of {answer.stopped}")
    return answer.text
