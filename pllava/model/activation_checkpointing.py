"""Gradient checkpointing: the backward pass computes activations again, so the forward pass need not keep them.

recompute(model, "mlp")      # the MLPs: saves about half of a step's activations, costs a few per cent of its time
recompute(model, "blocks")   # whole decoder blocks: saves nearly all activations, costs a third of the time
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch.utils.checkpoint import checkpoint

from pllava.core.errors import PllavaError


def recompute(model: Any, what: Literal["none", "mlp", "blocks"]) -> None:
    """Switch gradient checkpointing on in the language model. Gradients stay equal to the bit. The frozen tower keeps no activations."""
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
