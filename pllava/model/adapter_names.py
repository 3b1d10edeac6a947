"""Names of an adapter's tensors: as published, as peft writes them, and as peft wrote them on a Llava of transformers before 4.52."""

from __future__ import annotations

import re
from collections.abc import Collection

from peft import LoraConfig
from peft.utils.other import get_pattern_key

PEFT = "base_model.model."
PARTS = ("language_model", "vision_tower", "multi_modal_projector")  # were at the top of the model, and are under `model` now


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
    """Name in a PEFT folder, of any version of transformers -> the name of today."""
    if not key.startswith(PEFT):
        return key
    key = re.sub(r"^language_model\.lm_head\.", "lm_head.", key.removeprefix(PEFT))
    if key.startswith(PARTS):
        key = f"model.{re.sub(r'^language_model[.]model[.]', 'language_model.', key)}"
    return PEFT + re.sub(r"^model\.vision_tower\.vision_model\.", "model.vision_tower.", key)


def update_layer_names(config: LoraConfig, keys: Collection[str]) -> None:
    """Make a config that goes with tensors of old names fit the model of today: its layers, ranks and alphas by each layer's full name."""
    names = {key: current_name(key) for key in keys}
    if all(key == name for key, name in names.items()):
        return
    adapted = {_module(key): _module(name) for key, name in names.items() if ".lora_" in key}
    config.target_modules = {*adapted.values()}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = _by_name(config.rank_pattern or {}, adapted)
    config.alpha_pattern = _by_name(config.alpha_pattern or {}, adapted)


def _by_name(pattern: dict[str, int], adapted: dict[str, str]) -> dict[str, int]:
    matched = {name: get_pattern_key(pattern.keys(), old) for old, name in adapted.items()}
    return {re.escape(name): pattern[key] for name, key in matched.items() if key in pattern}


def _module(key: str) -> str:
    return key.removeprefix(PEFT).partition(".lora_")[0]
