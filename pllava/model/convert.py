"""`pllava convert SOURCE TARGET` converts an adapter between the published layout and ours, tensor by tensor.

convert("published_adapter", "ours", base="llava-hf/llava-v1.6-vicuna-7b-hf", lora_alpha=4)
convert("ours", "published")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, atomic_write_text, read_json, write_json
from pllava.model import adapter, familiarity, layouts
from pllava.model.adapter_names import peft_name, published_adapter_name
from pllava.model.configuration import VIDEO_KEYS, PllavaConfig
from pllava.model.layouts import Checkpoint

NOT_IN_PUBLISHED = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "lora_bias")  # keys of peft's config


def convert(source: str | Path, target: str | Path, base: str | None = None, lora_alpha: float | None = None) -> Path:
    """Write the adapter of `source` to the folder `target` in the other layout. Every tensor keeps its bits and its dtype.

    base: required for published adapters, which don't name their base. lora_alpha: the alpha to store, which loading uses by default;
    default: the alpha of the source, else 32. Raises PllavaError if `source` is no adapter, or if `target` is no checkpoint.
    """
    layouts.check_target(Path(target), source, base)
    checkpoint = layouts.read(layouts.resolve(source))
    if checkpoint.layout == "adapter":
        _to_ours(checkpoint, Path(target), base, lora_alpha)
    elif checkpoint.layout == "peft":
        _to_published(checkpoint, Path(target), base, lora_alpha)
    else:
        raise PllavaError(f"{source}: holds a whole model, not an adapter. It needs no conversion: pllava.load({str(source)!r})")
    return Path(target)


def _to_ours(checkpoint: Checkpoint, target: Path, base: str | None, lora_alpha: float | None) -> None:
    """Write a published adapter in our layout: peft's files, config.yaml and manifest.json."""
    if base is None:
        raise PllavaError(
            f"{checkpoint.folder} doesn't name its base, as no published adapter does. Give it: pllava convert ... --base NAME"
        )
    peft_config = adapter.lora_config(checkpoint, lora_alpha)
    peft_config.base_model_name_or_path = base
    peft_config.inference_mode = True
    settings = {key: value for key, value in checkpoint.config.items() if key in VIDEO_KEYS}
    config = {"base": base, "model": {"base": base, **settings}, "lora_alpha": peft_config.lora_alpha}
    with atomic_dir(target) as partial:
        tensors = {peft_name(key): value[:] for key, value in checkpoint.lora.items()}
        save_file(tensors, partial / adapter.WEIGHTS, metadata={"format": "pt"})
        peft_config.save_pretrained(str(partial))
        write_json(partial / "adapter_config.json", read_json(partial / "adapter_config.json"))
        atomic_write_text(partial / "config.yaml", yaml.safe_dump(config, sort_keys=True))
        familiarity.copy(checkpoint.folder, partial)
        adapter.write_manifest(partial, base)


def _to_published(checkpoint: Checkpoint, target: Path, base: str | None, lora_alpha: float | None) -> None:
    """Write model.safetensors, and config.json: the base's with the adapter's video settings and its alpha, which loading reads there."""
    stored = read_json(checkpoint.folder / "adapter_config.json")
    if lost := [key for key in NOT_IN_PUBLISHED if stored.get(key) not in (None, False, {}, "none")]:
        raise PllavaError(
            f"{checkpoint.folder}: the published layout has no place for {', '.join(lost)}. Keep this layout, or pllava export"
        )
    if not any("multi_modal_projector" in key for key in checkpoint.lora):
        raise PllavaError(
            f"{checkpoint.folder}: no projector in here, and the published layout has one. Keep this layout, or pllava export"
        )
    raw = layouts.read_config(base or adapter.base_of(checkpoint.folder))
    settings: dict[str, Any] = adapter.resolved_config(checkpoint.folder).get("model") or {}
    config = PllavaConfig.from_llava(raw, **{key: settings.get(key) for key in VIDEO_KEYS})
    alpha = lora_alpha if lora_alpha is not None else stored["lora_alpha"]
    # All other keys stay as the base spells them: the published code can't read a config that transformers 5 has rewritten.
    video = {key: getattr(config, key) for key in (*VIDEO_KEYS, "frame_shape") if key != "frame_repeat" or key in settings}
    published = {"model_type": "llava", "text_config": _with_rope_theta(raw["text_config"]), "lora_alpha": alpha}
    with atomic_dir(target) as partial:
        tensors = {published_adapter_name(key): value[:] for key, value in checkpoint.lora.items()}
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        write_json(partial / "config.json", raw | video | published)
        familiarity.copy(checkpoint.folder, partial)


def _with_rope_theta(text_config: dict[str, Any]) -> dict[str, Any]:
    """text_config with rope_theta at the top level too, where transformers 4 reads it. Without it, Yi's 5e6 would silently become 1e4."""
    theta = (text_config.get("rope_parameters") or {}).get("rope_theta")
    return text_config if theta is None else {"rope_theta": theta} | text_config
