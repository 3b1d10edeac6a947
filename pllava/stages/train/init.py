"""The model a training starts from: the base with fresh LoRA, or with an adapter to go on from (`train.init_from`)."""

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
    """Where `train.init_from` leads today (a registry alias moves), and the hash of the weights there."""

    folder: Path
    sha256: str


def adapter_source(params: Params) -> AdapterSource | None:
    """Raises PllavaError when there is no adapter at `train.init_from`."""
    wanted = params.train.init_from
    if wanted is None:
        return None
    if sources.scheme_of(wanted):
        folder = sources.resolve(wanted).folder
    else:
        from pllava.model.layouts import resolve as find
        from pllava.stages.train.output import OUTPUT

        if OUTPUT.resolve() in (Path(wanted).resolve(), *Path(wanted).resolve().parents):
            raise PllavaError(
                f"train.init_from {wanted} is what this training writes, and DVC removes it first. "
                "Name the registered version (models:/pllava@champion), or copy the folder elsewhere"
            )
        folder = find(wanted)
    digests = [sha256_file(file) for file in sorted(folder.glob("*.safetensors"))]
    if not digests:
        raise PllavaError(
            f"train.init_from {wanted}: no weights (*.safetensors) in {folder}. Give an adapter folder of ours or a published one"
        )
    return AdapterSource(folder, "+".join(digests))


def make_model(params: Params, device: str) -> tuple[Any, Any]:
    """(PeftModel with LoRA and projector trainable, processor)."""
    source = adapter_source(params)
    model, processor = load(
        params.model.base,
        adapter=source.folder if source else None,
        lora_alpha=params.train.lora.alpha if source and not stores_alpha(source.folder) else None,
        num_frames=params.model.num_frames,
        pooling_shape=params.model.pooling_shape,
        pooling_method=params.model.pooling_method,
        dtype=params.model.dtype,
        device=device,
        attn_implementation=params.model.attn_implementation,
        quantization_config=quantization_config(params.model.quantization),
    )
    plain = model.get_base_model() if source else model
    if params.train.packing:
        use_packed_attention(plain)
    recompute(plain, params.train.gradient_checkpointing)
    if source:
        return continue_adapter(model, params.train.lora, str(params.train.init_from)), processor
    return add_lora(model, params.train.lora, params.seed), processor
