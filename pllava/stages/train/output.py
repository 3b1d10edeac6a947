"""outputs/train, written whole or not at all: adapter/ (everything inference needs), history.jsonl, summary.md, loss.png.

`train.adapter` chooses the weights of adapter/: the last ones, as in the paper, or those of the lowest validation loss. The other weights
are beside it, in best/ or last/, when they differ. No file holds a time, a place or a run id, so equal runs give equal bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts.training import OUTPUT
from pllava.chat.template import load_template
from pllava.core.files import atomic_dir, atomic_write_bytes, atomic_write_text, writing
from pllava.model.adapter import save_adapter
from pllava.stages.train.resume import ROOM

if TYPE_CHECKING:
    from torch import Tensor

    from pllava.core.params import Params
    from pllava.model.familiarity import Familiarity
    from pllava.stages.train.inputs import Inputs
    from pllava.stages.train.logger import TrainLogger


def write_output(
    params: Params,
    model: Any,
    last: dict[str, Tensor],
    best: dict[str, Tensor] | None,
    logger: TrainLogger,
    inputs: Inputs,
    familiarity: Familiarity | None,
) -> Path:
    """Write outputs/train and return it.

    last, best: whole weights by parameter name. They are passed in because the model of one process may hold only its part of them.
    """
    from pllava.artifacts.plots import loss_curve

    train, last_step = params.train, logger.history[-1]["step"]
    config = {
        "base": params.model.base,
        "model": params.model.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "template": params.model.template,
        "template_sha256": load_template(params.model.template, params.model.base).sha256,
        "seed": params.seed,
        "lora_alpha": train.lora.alpha,
    }
    versions = {"last": last}
    if best is not None and logger.best_step != last_step:
        versions["best"] = best
    chosen = train.adapter if train.adapter in versions else "last"
    with writing(OUTPUT, ROOM), atomic_dir(OUTPUT) as folder:
        for name, values in versions.items():
            save_adapter(model, folder / ("adapter" if name == chosen else name), config, values, familiarity)
        atomic_write_text(folder / "history.jsonl", logger.history_text())
        atomic_write_bytes(folder / "loss.png", loss_curve(logger.history, "Loss by step"))
        atomic_write_text(folder / "summary.md", summary(params, logger, inputs, chosen))
    meters = logger.meters
    print(
        f"{OUTPUT}: {last_step} steps, {meters.samples_per_second:.1f} samples/s, {meters.wait_share:.0%} of the time waiting for data; "
        f"adapter/ is the {'best' if logger.best_step == last_step and chosen == 'last' else chosen} one",
        file=sys.stderr,
    )
    return OUTPUT


def summary(params: Params, logger: TrainLogger, inputs: Inputs, chosen: str) -> str:
    """The text of summary.md: settings, data and losses. Equal trainings give equal text: it holds no speed.

    chosen: "last" or "best", the weights in adapter/.
    """
    train, model, lora = params.train, params.model, params.train.lora
    t, h, w = model.pooling_shape
    steps = logger.history[-1]["step"]
    bad = inputs.bad_clips["train"]
    facts = {
        "Base": f"`{model.base}`" + (f", going on from `{train.init_from}`" if train.init_from else ""),
        "Trained": f"projector, and LoRA r {lora.r}, alpha {lora.alpha:g}, dropout {lora.dropout:g} on {', '.join(lora.target_modules)}",
        "Visual tokens": f"{t * h * w:,} a clip: {model.num_frames} frames pooled to {t} x {h} x {w}",
        "Data": f"{inputs.rows('train'):,} training rows, {inputs.rows('validation'):,} for validation",
        "Length": f"{steps} steps of {train.batch_size}"
        + (f" (of {logger.steps}: stopped early)" if steps < logger.steps else "")
        + f", {steps * train.batch_size / inputs.rows('train'):.2f} epochs",
        "Learning rate": f"{train.learning_rate:g}, warm-up {train.warmup_ratio:g}, cosine to {train.min_lr_ratio:g} of it",
    }
    if logger.validations:
        losses = dict(logger.validations)
        first, best, last = logger.validations[0], (logger.best_step or 0, losses[logger.best_step or 0]), logger.validations[-1]
        facts["Validation loss"] = f"{first[1]:.4f} before, {last[1]:.4f} at the end, best {best[1]:.4f} at step {best[0]}"
        facts["adapter/"] = f"the {chosen} weights"
    if bad:
        facts["Clips that could not be read"] = f"{len(bad)}, replaced by others: {', '.join(sorted(bad)[:10])}"
    names = [name for name in ("loss", "val_loss", "lr", "grad_norm") if any(name in record for record in logger.history)]
    lines = ["# Training", "", *(f"- {name}: {value}" for name, value in facts.items()), "", "![Loss by step](loss.png)", ""]
    lines += [f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for record in logger.history:
        lines.append(f"| {record['step']} | " + " | ".join(f"{record[name]:.5g}" if name in record else "" for name in names) + " |")
    return "\n".join(lines) + "\n"
