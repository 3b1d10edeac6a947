"""The page's settings: `panel(engine)` makes their components, `settings_from(engine, *values)` reads them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pllava.apps.demo.engine import MOST_FRAMES, ChatEngine, Settings
from pllava.core.errors import PllavaError

MAX_SYSTEM = 4000  # characters
DIGITS = 6  # decimal places of the LoRA alpha on the page


def panel(engine: ChatEngine) -> list[Any]:
    """Components of the settings, in the order of the arguments of `settings_from`."""
    processor, alpha = engine.chat.processor, engine.lora_alpha
    t, h, w = processor.pooling_shape
    return [
        gr.Textbox(
            engine.chat.template.system,
            label="System prompt",
            info="What the model is told before it sees the video. A new one makes it look at the video again.",
            lines=2,
            max_length=MAX_SYSTEM,
        ),
        gr.Slider(
            1,
            max(MOST_FRAMES, processor.num_frames),
            processor.num_frames,
            step=1,
            label="Frames",
            info=f"Moments of the clip the model sees. More show finer motion; they are pooled into the same {t * h * w:,} visual tokens.",
        ),
        gr.Slider(
            1,
            5,
            1,
            step=1,
            label="Beams",
            info="Answers that are followed side by side before the best is taken. Above 1 it is slower, and the answer comes at once.",
        ),
        gr.Slider(0, 2, 0, step=0.1, label="Temperature", info="0 gives the likeliest answer, always the same; higher is more varied."),
        gr.Slider(1, 1024, 200, step=1, label="Longest answer", info="The answer is cut after so many tokens, each about three letters."),
        gr.Slider(
            **strengths(alpha),
            label="LoRA alpha",
            info="Strength of the video training: 0 is the image model with the trained projector; the paper lowers it for long answers.",
        ),
    ]


def settings_from(
    engine: ChatEngine,
    system: str,
    frames: float,
    beams: float,
    temperature: float,
    tokens: float,
    alpha: float,
    page_facts: dict[str, Any] | None,
) -> Settings:
    """The settings that the components hold; a value that was not touched is None, so the model's own counts. Raises PllavaError."""
    numbers = (frames, beams, temperature, tokens, alpha)
    if not isinstance(system, str) or not all(isinstance(number, int | float) and abs(number) < 1e6 for number in numbers):
        raise PllavaError("a setting is no text or no number, or is out of range")
    untouched = alpha == _shown((page_facts or {}).get("alpha") or 0)  # then the version that answers uses its own alpha
    return Settings(
        system=None if system.strip() == engine.chat.template.system.strip() else system.strip()[:MAX_SYSTEM],
        num_frames=None if int(frames) == engine.chat.processor.num_frames else int(frames),
        num_beams=int(beams),
        temperature=float(temperature),
        max_new_tokens=int(tokens),
        lora_alpha=None if engine.lora_alpha is None or untouched or alpha == _shown(engine.lora_alpha) else float(alpha),
    )


def strengths(alpha: float | None) -> dict[str, Any]:
    """Range and value of the LoRA alpha slider. The model's own alpha is a step of the slider, so that a visitor can return to it."""
    shown = _shown(alpha or 0)
    return {
        "minimum": 0,
        "maximum": max(64.0, 2 * shown),
        "value": shown,
        "step": 1 if shown.is_integer() else 10.0**-DIGITS,
        "visible": alpha is not None,
    }


def _shown(alpha: float) -> float:
    """The alpha as the page shows it."""
    return round(float(alpha), DIGITS)
