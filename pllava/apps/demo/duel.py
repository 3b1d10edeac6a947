"""Two versions side by side: one question to the version that serves and to the candidate, and the visitor's vote, which is kept.

The candidate is loaded for the question and dropped after it.
"""

from __future__ import annotations

import gc
import html
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pllava.apps.demo.components import problem, sentence
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.chat.model_ref import ModelRef
from pllava.core.errors import PllavaError
from pllava.core.ledger import Ledger
from pllava.core.processes import HOME

VOTES = HOME / "votes.ledger"
CHOICES = {"first": "The first is better", "second": "The second is better", "same": "Equally good"}
ROOM = 1.3  # free memory that a second model needs, as a multiple of its weights
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duel:
    """The answers of two versions to one question; versions: their names. The version that serves is the first."""

    video: str
    question: str
    versions: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return len(self.answers) == 2

    def html(self) -> str:
        answers = [*self.answers, *["…"] * (2 - len(self.answers))]
        columns = "".join(
            f"<div><b>{html.escape(name)}</b><p>{html.escape(answer) or '(nothing)'}</p></div>"
            for name, answer in zip(self.versions, answers, strict=True)
        )
        return f'<p class="facts">“{html.escape(self.question)}”</p><div class="duel" role="status">{columns}</div>'


def ask_both(engine: ChatEngine, rival: ModelRef, path: str, question: str, settings: Settings) -> Iterator[Duel]:
    """Yields the duel with the first answer, then with both. Each version has its own LoRA alpha.

    Raises PllavaError when memory allows no second model, or a version cannot answer.
    """
    settings = replace(settings, lora_alpha=None)
    _require_memory(engine.chat.model)
    with engine.use(settings):
        name = engine.credit(settings)
    duel = Duel(Path(path).name, question, (name, rival.name), (engine.ask(path, question, settings),))
    yield duel
    second = ChatEngine(rival.load(), engine.limits)
    second.source, second.readers = rival, engine.readers
    try:
        answer = second.ask(path, question, settings)
        yield replace(duel, versions=(name, second.credit(settings)), answers=(*duel.answers, answer))
    finally:
        del second
        gc.collect()


def vote(duel: Duel, choice: str, ledger: Path = VOTES) -> None:
    """Keep a visitor's vote, one of CHOICES."""
    with Ledger(ledger) as rows:
        rows.add([(uuid.uuid4().hex, asdict(duel) | {"vote": choice, "time": datetime.now(UTC).isoformat(timespec="seconds")})])


def panel(
    handler: Callable[..., Iterator[Duel]], there_is_a_rival: Callable[[], bool], page: Any, inputs: list[Any], **options: Any
) -> Any:
    """Put the button, the two answers and the votes on the page; returns the event of the question.

    handler(*inputs) yields the duel. options: of the event.
    """
    import gradio as gr

    state = gr.State(None)
    button = gr.Button("Ask both versions", size="sm", visible=False, elem_id="both")
    answers = gr.HTML("", elem_id="duel")
    with gr.Row(elem_id="votes", visible=False) as row:
        votes = {choice: gr.Button(text, size="sm", min_width=90) for choice, text in CHOICES.items()}

    def compare(*values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            for duel in handler(*values):
                yield duel, duel.html(), gr.Row(visible=duel.whole)
        except PllavaError as error:
            yield None, problem(sentence(error)), gr.Row(visible=False)
        except Exception:
            log.exception("a question to two versions failed")
            yield None, problem("Something went wrong on this side. The server's log says what."), gr.Row(visible=False)

    def keep(duel: Duel | None, choice: str) -> tuple[Any, ...]:
        if duel is None:
            return gr.skip(), gr.Row(visible=False), None
        vote(duel, choice)
        return duel.html() + f'<p class="facts" role="status">Kept: {CHOICES[choice].lower()}.</p>', gr.Row(visible=False), None

    def voter(choice: str) -> Callable[[Duel | None], tuple[Any, ...]]:
        return lambda duel: keep(duel, choice)

    hidden = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    page.load(lambda: gr.Button(visible=there_is_a_rival()), None, button, **hidden)
    for choice, one in votes.items():
        one.click(voter(choice), state, [answers, row, state], **hidden)
    return button.click(compare, inputs, [state, answers, row], show_progress_on=answers, **options)


def _require_memory(model: Any) -> None:
    import psutil
    import torch

    needed = ROOM * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    free = torch.cuda.mem_get_info(model.device)[0] if model.device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise PllavaError(f"a second version needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free. Ask them one by one")
