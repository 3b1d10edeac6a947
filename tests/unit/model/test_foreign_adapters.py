"""Adapters that peft wrote elsewhere: old names of tensors, and what the published layout can't say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_adapters import KINDS, peft_adapter, peft_model
from safetensors.torch import load_file, save_file

import pllava
from pllava.core.errors import PllavaError
from pllava.model.adapter import set_lora_alpha
from pllava.model.convert import convert


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    video = torch.randn(1, 4, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    return model(input_ids=torch.tensor([[1, *[600] * 16, 5, 9, 200]]), pixel_values_videos=video).logits


def old_name(key: str) -> str:
    """As transformers before 4.52 had the model's parts: at the top, the language model whole."""
    key = key.replace("base_model.model.model.language_model.", "base_model.model.language_model.model.")
    key = key.replace("base_model.model.lm_head.", "base_model.model.language_model.lm_head.")
    key = key.replace("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model.")
    return key.replace("base_model.model.model.multi_modal_projector.", "base_model.model.multi_modal_projector.")


def made_old(folder: Path, **config: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({old_name(key): value for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(values | config))


LAYER_0, LAYER_1 = "language_model.model.layers.0.self_attn.", "language_model.model.layers.1.self_attn."
OLD: dict[str, dict[str, Any]] = {  # settings under today's names, and config keys as they were written then
    **{name: {"now": settings, "then": {}} for name, settings in KINDS.items()},
    "full names": {
        "now": {
            "target_modules": [f"{layer.replace('.model.', '.')}{name}" for layer in (LAYER_0, LAYER_1) for name in ("q_proj", "v_proj")],
            "rank_pattern": {r"layers.0.self_attn.v_proj": 2},
            "alpha_pattern": {r"layers.0.self_attn.q_proj": 64},
        },
        "then": {
            "target_modules": [f"{layer}{name}" for layer in (LAYER_0, LAYER_1) for name in ("q_proj", "v_proj")],
            "rank_pattern": {f"{LAYER_0}v_proj": 2},
            "alpha_pattern": {f"^{re.escape(LAYER_0)}q_proj": 64},
        },
    },
    "tower and head": {
        "now": {"target_modules": ["q_proj", "lm_head", "fc1"], "alpha_pattern": {r"vision_tower\..*": 3}},
        "then": {"alpha_pattern": {r"vision_tower\.vision_model\..*": 3}},
    },
    "no projector": {"now": {"projector": False}, "then": {}},
    "for causal language models": {"now": {"task_type": "CAUSAL_LM"}, "then": {}},
}


@pytest.mark.parametrize("kind", OLD)
def test_names_of_before_4_52_are_the_same_adapter(kind: str, load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    now = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "now", **OLD[kind]["now"])
    then = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "then", **OLD[kind]["now"])
    made_old(then, **OLD[kind]["then"])
    assert any(key.startswith("base_model.model.language_model.model.") for key in load_file(then / "adapter_model.safetensors"))
    models = [pllava.load(tiny_base_dir, adapter=folder, dtype="float32", device="cpu")[0] for folder in (now, then)]
    wanted = peft_model(load_tiny("tiny56_base", fresh=True), **OLD[kind]["now"])
    assert logits(models[0]).equal(logits(models[1]))
    assert logits(models[1]).equal(logits(wanted))
    for model in models:
        set_lora_alpha(model, 4)
    assert logits(models[0]).equal(logits(models[1]))


def test_an_old_adapter_that_lacks_a_tensor_is_refused_by_its_name(load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter")
    made_old(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.language_model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PllavaError, match=r"missing: .*layers\.1\.self_attn\.v_proj\.lora_B"):
        pllava.load(tiny_base_dir, adapter=folder)


def test_layers_that_this_model_lacks_are_one_sentence(load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter")
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(values | {"target_modules": ["qkv"]}))
    with pytest.raises(PllavaError, match="does not fit this model"):
        pllava.load(tiny_base_dir, adapter=folder)


def test_old_names_are_published_under_the_published_ones(load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folders = [peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / name) for name in ("now", "then")]
    made_old(folders[1])
    published = [convert(folder, tmp_path / f"published-{folder.name}") for folder in folders]
    assert load_file(published[0] / "model.safetensors").keys() == load_file(published[1] / "model.safetensors").keys()
    assert all(
        logits(pllava.load(tiny_base_dir, adapter=folder, dtype="float32", device="cpu")[0]).isfinite().all() for folder in published
    )


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "plain"])
def test_what_the_published_layout_cannot_say_is_not_published(kind: str, load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter", **KINDS[kind])
    with pytest.raises(PllavaError, match=f"no place for .*{sorted(KINDS[kind])[0]}"):
        convert(folder, tmp_path / "published")


def test_an_adapter_without_a_projector_is_not_published(load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter", projector=False)
    with pytest.raises(PllavaError, match="no projector in here"):
        convert(folder, tmp_path / "published")
