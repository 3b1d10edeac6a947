"""A base, an adapter or a setting that does not fit is named, with the remedy; nothing is loaded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import Tensors, cpu
from transformers import AutoModelForImageTextToText

import pllava
from pllava.core.errors import PllavaError
from pllava.model.convert import convert


def test_a_tower_and_a_strategy_that_do_not_fit_are_named(tiny_base_dir: Path, copy_of: Any) -> None:
    """A CLIP has a class token, which "full" keeps: 17 features on a grid of 4 x 4."""
    folder = copy_of(tiny_base_dir, vision_feature_select_strategy="full")
    said = "'full' reads 17 features a frame of the tower, a clip_vision_model, and the grid of a frame is 4 x 4 = 16 patches"
    with pytest.raises(PllavaError, match=said):
        cpu(folder)
    with pytest.raises(PllavaError, match=said):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_a_grid_that_is_not_the_towers_is_named(tiny_base_dir: Path, copy_of: Any) -> None:
    with pytest.raises(PllavaError, match=r"'default' reads 16 features .* is 3 x 3 = 9 patches"):
        cpu(copy_of(tiny_base_dir, frame_shape=[3, 3]))


def test_a_tower_without_a_class_token_and_default_are_named(tiny_base_dir: Path, copy_of: Any) -> None:
    vision = json.loads((tiny_base_dir / "config.json").read_text())["vision_config"]
    vision = {key: value for key, value in vision.items() if key != "projection_dim"} | {"model_type": "siglip_vision_model"}
    with pytest.raises(PllavaError, match="'default' drops the class token, and the tower, a siglip_vision_model, has none"):
        cpu(copy_of(tiny_base_dir, vision_config=vision))


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ({"crop_size": {"height": 42, "width": 42}}, "pictures of 42 x 42 pixels .* the tower takes 56 x 56"),
        ({"crop_size": {"height": 56, "width": 42}}, "pictures of 42 x 56 pixels .* the tower takes 56 x 56"),
        ({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, "336 x 336 pixels .* the tower takes 56 x 56"),
        ({"size": {"shortest_edge": 42}}, "short side to 42 pixels, and the tower takes 56 x 56"),
        ({"size": {"height": 42, "width": 42}}, "pictures of 42 x 42 pixels .* the tower takes 56 x 56"),
        ({"size": {"longest_edge": 56}}, "'longest_edge': 56.* makes no pictures of one size, and the tower takes 56 x 56"),
    ],
)
def test_a_processor_of_another_size_than_the_towers_is_named(pixels: Any, said: str, tiny_base_dir: Path, copy_of: Any) -> None:
    folder = copy_of(tiny_base_dir)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | pixels))
    with pytest.raises(PllavaError, match=said):
        cpu(folder)


def test_one_tensor_under_two_names_is_refused(tiny_base_dir: Path, copy_of: Any) -> None:
    def add(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = torch.zeros(608, 64)

    with pytest.raises(PllavaError, match=r"language_model\.lm_head\.weight and lm_head\.weight are one tensor"):
        cpu(copy_of(tiny_base_dir, add))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("base/model.safetensors.index.json", "{}", "has no weight_map"),
        ("base/config.json", "[]", "holds a list, a mapping is needed"),
        ("base/generation_config.json", "{", "does not load"),
        ("ours/adapter_config.json", "{", "is not JSON"),
        ("ours/adapter_config.json", '{"peft_type": "IA3"}', "only LoRA is known"),
        ("ours/config.yaml", "- 1", "holds a list, a mapping is needed"),
        ("ours/manifest.json", "{}", "it is damaged"),
    ],
)
def test_a_damaged_file_is_named(file: str, text: str, said: str, tiny_base_dir: Path, lora_dir: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base_dir, tmp_path / "base")
    ours = convert(lora_dir, tmp_path / "ours", base=str(base), lora_alpha=4)
    (ours / "manifest.json").unlink()  # which would say what has changed
    (tmp_path / file).write_text(text)
    with pytest.raises(PllavaError, match=f"{Path(file).name}.*{said}"):
        cpu(base, adapter=ours)


def test_settings_that_cannot_be_are_refused(tiny_base_dir: Path) -> None:
    for frames in (0, -1, 2.5):
        with pytest.raises(PllavaError, match=f"num_frames is {frames}"):
            cpu(tiny_base_dir, num_frames=frames)
    with pytest.raises(PllavaError, match="device 'gpu' is not known"):
        pllava.load(tiny_base_dir, device="gpu")
    with pytest.raises(PllavaError, match="device 'cuda:99': torch sees"):
        pllava.load(tiny_base_dir, device="cuda:99")


def test_every_wrong_tensor_is_listed_and_nothing_is_loaded(tiny_base_dir: Path, copy_of: Any) -> None:
    def damage(tensors: Tensors) -> None:
        del tensors["multi_modal_projector.linear_2.bias"], tensors["language_model.model.norm.weight"]
        tensors["multi_modal_projector.linear_3.bias"] = torch.zeros(2)
        tensors["language_model.lm_head.weight"] = torch.zeros(600, 64)

    with pytest.raises(PllavaError) as error:
        cpu(copy_of(tiny_base_dir, damage))
    assert "4 tensors don't fit the model, nothing was loaded" in str(error.value)
    for line in (
        "missing: multi_modal_projector.linear_2.bias [64]",
        "missing: language_model.model.norm.weight [64]",
        "unexpected: multi_modal_projector.linear_3.bias [2]",
        "shape: language_model.lm_head.weight is [600, 64], the config needs [608, 64]",
    ):
        assert line in str(error.value)


def test_an_adapter_that_lacks_a_layer_is_refused(tiny_base_dir: Path, lora_dir: Path, copy_of: Any) -> None:
    lost = "language_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
    with pytest.raises(PllavaError, match=re.escape(f"1 tensor doesn't fit the model, nothing was loaded\n  missing: {lost} [32, 8]")):
        cpu(tiny_base_dir, adapter=copy_of(lora_dir, lambda tensors: tensors.pop(lost)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "processor_config.json"])
def test_a_damaged_file_beside_the_weights_is_named(tiny_base_dir: Path, copy_of: Any, name: str) -> None:
    folder = copy_of(tiny_base_dir)
    (folder / name).write_text('{"cut off')
    with pytest.raises(PllavaError, match=re.escape(str(folder))):
        cpu(folder)


def test_a_config_that_contradicts_itself_is_one_sentence(tiny_base_dir: Path, copy_of: Any) -> None:
    text = json.loads((tiny_base_dir / "config.json").read_text())["text_config"]
    folder = copy_of(tiny_base_dir, text_config=text | {"num_attention_heads": 7})
    with pytest.raises(PllavaError, match="not a multiple of the number of attention heads"):
        cpu(folder)


def test_an_adapter_alone_asks_for_its_base(lora_dir: Path) -> None:
    with pytest.raises(PllavaError, match=r"only LoRA and projector in here\. Give the base too"):
        cpu(lora_dir)


def test_a_base_is_not_an_adapter(tiny_base_dir: Path) -> None:
    with pytest.raises(PllavaError, match="whole model without LoRA"):
        cpu(tiny_base_dir, adapter=tiny_base_dir)
    with pytest.raises(PllavaError, match="no LoRA to scale"):
        cpu(tiny_base_dir, lora_alpha=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attn_implementation": "flash_attention_2"}, "pip install flash-attn, or use sdpa"),
        ({"attn_implementation": "flash"}, "one of sdpa, eager, flash_attention_2"),
        ({"dtype": "int8"}, "one of auto, float32"),
        ({"pooling_shape": (4, 0, 2)}, "three positive numbers"),
    ],
)
def test_wrong_settings_name_the_remedy(tiny_base_dir: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PllavaError, match=message):
        pllava.load(tiny_base_dir, **settings)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PllavaError, match="no such folder"):
        pllava.load(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PllavaError, match=r"no safetensors weights; it holds pytorch_model.bin"):
        pllava.load(tmp_path)


def test_from_pretrained_is_strict_too(tiny_base_dir: Path, copy_of: Any) -> None:
    folder = copy_of(tiny_base_dir, lambda tensors: tensors.pop("multi_modal_projector.linear_2.bias"))
    with pytest.raises(PllavaError, match=r"missing_keys: .*linear_2\.bias"):
        AutoModelForImageTextToText.from_pretrained(folder)
