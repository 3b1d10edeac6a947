"""Translates the names of an adapter's tensors: published names, peft's names, and peft's names for Llava in transformers before 4.52."""

from __future__ import annotations

import re
from collections.abc import Collection

from peft import LoraConfig
from peft.utils.other import get_pattern_key

PEFT = "base_model.model."
PARTS = ("language_model", "vision_tower", "multi_modal_projector")  # transformers 4.52 moved them from the top of the model to `model`


def peft_name(key: str) -> str:
    """Published name of an adapter tensor -> the name in a PEFT folder."""
    if key.startswith("multi_modal_projector."):
        return f"base_model.model.model.{key}"
    key = re.sub(r"^language_model\.base_model\.model\.model\.", "base_model.model.model.language_model.", key)
    key = re.sub(r"^language_model\.base_model\.model\.lm_head\.", "base_model.model.lm_head.", key)
    return re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", key)


def published_adapter_name(key: str) -> str:
    """Name in a PEFT folder -> the published name. Inverse of `peft_name`."""
    key = current_name(key)
    if key.startswith("base_model.model.model.multi_modal_projector."):
        return key.removeprefix("base_model.model.model.")
    key = re.sub(r"^base_model\.model\.model\.language_model\.", "language_model.base_model.model.model.", key)
    key = re.sub(r"^base_model\.model\.lm_head\.", "language_model.base_model.model.lm_head.", key)
    return re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", key)


def current_name(key: str) -> str:
    """Name in a PEFT folder, written with any version of transformers -> the name in the current version."""
    if not key.startswith(PEFT):
        return key
    key = re.sub(r"^language_model\.lm_head\.", "lm_head.", key.removeprefix(PEFT))
    if key.startswith(PARTS):
        key = f"model.{re.sub(r'^language_model[.]model[.]', 'language_model.', key)}"
    return PEFT + re.sub(r"^model\.vision_tower\.vision_model\.", "model.vision_tower.", key)


def update_layer_names(config: LoraConfig, keys: Collection[str]) -> None:
    """Adapt peft's config of an adapter with old tensor names to the current model, in place. `keys`: names of the adapter's tensors.

    target_modules, rank_pattern and alpha_pattern then hold the full current name of each layer. Current names: nothing changes.
    """
    names = {key: current_name(key) for key in keys}
    if all(key == name for key, name in names.items()):
        return
    adapted = {_module(key): _module(name) for key, name in names.items() if ".lora_" in key}
    config.target_modules = {*adapted.values()}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = _by_name(config.rank_pattern or {}, adapted)
    config.alpha_pattern = _by_name(config.alpha_pattern or {}, adapted)


def _by_name(pattern: dict[str, int], adapted: dict[str, str]) -> dict[str, int]:
    """`pattern` (a rank or alpha pattern) keyed by full current names. adapted: old name -> current name of each layer with LoRA."""
    matched = {name: get_pattern_key(pattern.keys(), old) for old, name in adapted.items()}
    return {re.escape(name): pattern[key] for name, key in matched.items() if key in pattern}


def _module(key: str) -> str:
    """Name of the layer that a LoRA tensor belongs to."""
    return key.removeprefix(PEFT).partition(".lora_")[0]
