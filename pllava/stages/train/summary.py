"""summary.md of a training: settings, data and losses. It holds no speed, which differs from run to run and is in the run's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pllava.core.params import Params
    from pllava.stages.train.inputs import Inputs
    from pllava.stages.train.logger import TrainLogger


def summary(params: Params, logger: TrainLogger, inputs: Inputs, chosen: str) -> str:
    """The text of summary.md. chosen: "last" or "best", the weights in adapter/. Equal trainings give equal text."""
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
