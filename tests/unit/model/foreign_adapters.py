"""Adapters as peft writes them, of every kind, on the tiny model: random LoRA, saved by peft itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from pllava.model.adapter import targets

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"layers.0.self_attn.q_proj": 2, r"layers\.1\..*v_proj": 16}},
    "alpha_pattern": {"alpha_pattern": {"layers.0.self_attn.q_proj": 64, r"layers\.1\..*v_proj": 3.3}},
    "both patterns": {"rank_pattern": {"layers.2.self_attn.v_proj": 3}, "alpha_pattern": {"layers.2.self_attn.v_proj": 7}},
    "rslora patterns": {"use_rslora": True, "rank_pattern": {"v_proj": 6}, "alpha_pattern": {"q_proj": 11}},
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True, "alpha_pattern": {"q_proj": 5}},
}


def peft_model(model: Any, projector: bool = True, **settings: Any) -> Any:
    """The plain tiny model with LoRA of r 8, alpha 32, as if trained: A, B and magnitudes differ from their first values."""
    values: dict[str, Any] = {"r": 8, "lora_alpha": 32, "target_modules": targets(["q_proj", "v_proj"])} | settings
    if projector:
        values.setdefault("modules_to_save", ["multi_modal_projector"])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        wrapped = get_peft_model(model, LoraConfig(**values))
    generator = torch.Generator().manual_seed(7)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


def peft_adapter(model: Any, base: Path, folder: Path, projector: bool = True, **settings: Any) -> Path:
    """The folder that `save_pretrained` of peft makes of it."""
    wrapped = peft_model(model, projector, **settings)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return folder
