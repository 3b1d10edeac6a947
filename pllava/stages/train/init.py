"""The model that a training starts from: the base with fresh LoRA, or with the adapter of `train.init_from`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.model import sources
from pllava.model.activation_checkpointing import recompute
from pllava.model.adapter import add_lora, continue_adapter, stores_alpha
from pllava.model.attention import use_packed_attention
from pllava.model.load import load
from pllava.model.quantization import quantization_config

if TYPE_CHECKING:
    from pllava.core.params import Params


@dataclass(frozen=True)
class AdapterSource:
    """The folder that `train.init_from` names now (a registry alias can move), and the hash of the weights in it."""

    folder: Path
    sha256: str


def adapter_source(params: Params) -> AdapterSource | None:
    """The adapter that `train.init_from` names; None when it is not set. Raises PllavaError when no adapter is there."""
    reference = params.train.init_from
    if reference is None:
        return None
    if sources.scheme_of(reference):
        folder = sources.resolve(reference).folder
    else:
        from pllava.model.layouts import resolve
        from pllava.stages.train.output import OUTPUT

        if OUTPUT.resolve() in (Path(reference).resolve(), *Path(reference).resolve().parents):
            raise PllavaError(
                f"train.init_from {reference} is what this training writes, and DVC removes it first. "
                "Name the registered version (models:/pllava@champion), or copy the folder elsewhere"
            )
        folder = resolve(reference)
    digests = [sha256_file(file) for file in sorted(folder.glob("*.safetensors"))]
    if not digests:
        raise PllavaError(
            f"train.init_from {reference}: no weights (*.safetensors) in {folder}. Give an adapter folder of ours or a published one"
        )
    return AdapterSource(folder, "+".join(digests))


def make_model(params: Params, device: str) -> tuple[Any, Any]:
    """(PeftModel with LoRA and projector trainable, processor)."""
    source = adapter_source(params)
    model, processor = load(
        params.model.base,
        adapter=source.folder if source else None,
        lora_alpha=params.train.lora.alpha if source and not stores_alpha(source.folder) else None,
        device=device,
        quantization_config=quantization_config(params.model.quantization),
        **params.model.load_options(),
    )
    base = model.get_base_model() if source else model
    if params.train.packing:
        use_packed_attention(base)
    recompute(base, params.train.gradient_checkpointing)
    if source:
        return continue_adapter(model, params.train.lora, str(params.train.init_from)), processor
    return add_lora(model, params.train.lora, params.seed), processor
