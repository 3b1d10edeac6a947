"""Gradient checkpointing: activations that are computed again in the backward pass instead of kept.

recompute(model, "mlp")      # of the MLPs alone: about half of what a step keeps, for a few per cent of its time
recompute(model, "blocks")   # of whole decoder blocks: nearly all of it, for a third of the time
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch.utils.checkpoint import checkpoint

from pllava.core.errors import PllavaError


def recompute(model: Any, what: Literal["none", "mlp", "blocks"]) -> None:
    """Switch it on for the language model of a loaded model; the gradients stay the same to the bit. The frozen tower keeps nothing."""
    language_model = model.model.language_model
    if what == "blocks":
        language_model.activation_checkpointing_enable({"use_reentrant": False})
    elif what == "mlp":
        blocks = [module.mlp for module in language_model.modules() if hasattr(module, "mlp")]
        if not blocks:
            raise PllavaError(
                f"train.gradient_checkpointing mlp: {type(language_model).__name__} has no layers with an `mlp`. "
                "Set it to blocks or none in params.yaml"
            )
        for mlp in blocks:
            mlp.forward = partial(checkpoint, mlp.forward, use_reentrant=False)
