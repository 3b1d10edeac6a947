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
from pllava.stages.train.summary import summary

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
        "template_sha256": load_template(params.model.template).sha256,
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
        f"{OUTPUT}: {last_step} steps, {meters.samples_per_second:.1f} samples/s, {meters.wait_share:.0%} of it waiting for data; "
        f"adapter/ is the {'best' if logger.best_step == last_step and chosen == 'last' else chosen} one",
        file=sys.stderr,
    )
    return OUTPUT
