"""Layouts that are one model, strictness, alpha, and the settings of `pllava.load`."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

import pllava
from pllava.core.errors import PllavaError
from pllava.model.adapter import set_lora_alpha
from pllava.model.convert import convert
from pllava.model.export import export
from pllava.model.layouts import read_config
from pllava.model.load import language_model_only
from pllava.model.processing import PllavaProcessor

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def lora_dir(reference: Path) -> Path:
    return reference / "ckpt" / "tiny56_lora_r8"


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint folder with changed tensors or config."""

    def copy(folder: Path, change: Callable[[Tensors], Any] | None = None, **config: Any) -> Path:
        target = tmp_path / folder.name
        shutil.copytree(folder, target)
        if change is not None:
            tensors = load_file(target / "model.safetensors")
            change(tensors)
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        if config:
            values = json.loads((target / "config.json").read_text()) | config
            (target / "config.json").write_text(json.dumps(values))
        return target

    return copy


def cpu(*args: Any, **kwargs: Any) -> Any:
    return pllava.load(*args, dtype="float32", device="cpu", **kwargs)[0]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.tensor([[1, *[600] * 16, 5, 9, 200]])
    video = torch.randn(1, 4, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    return model(input_ids=ids, pixel_values_videos=video).logits


def full_layout(base: Path, lora: Path, target: Path) -> Path:
    """Layout 3: everything under peft's names, in three shards."""
    tensors = load_file(lora / "model.safetensors")
    for key, value in load_file(base / "model.safetensors").items():
        if key.startswith("language_model."):
            key = key.replace("language_model.", "language_model.base_model.model.", 1)
            key = re.sub(r"\.(q_proj|v_proj)\.weight$", r".\1.base_layer.weight", key)
        tensors.setdefault(key, value)  # the adapter's projector wins
    shutil.copytree(base, target, ignore=shutil.ignore_patterns("*.safetensors"))
    weight_map = {}
    for i in range(3):
        file, names = f"model-0000{i + 1}-of-00003.safetensors", sorted(tensors)[i::3]
        save_file({name: tensors[name] for name in names}, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


def test_the_layouts_are_one_model(tiny_base_dir: Path, lora_dir: Path, tmp_path: Path) -> None:
    wanted = logits(cpu(tiny_base_dir, adapter=lora_dir, lora_alpha=4))
    full = full_layout(tiny_base_dir, lora_dir, tmp_path / "full")
    assert logits(cpu(full, lora_alpha=4)).equal(wanted)
    assert logits(cpu(tiny_base_dir, adapter=full, lora_alpha=4)).equal(wanted)
    ours = convert(lora_dir, tmp_path / "ours", base=str(tiny_base_dir), lora_alpha=4)
    assert logits(cpu(ours)).equal(wanted)  # knows its base and its alpha
    merged = cpu(full, lora_alpha=4, merge=True)
    torch.testing.assert_close(logits(merged), wanted, atol=5e-5, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    with pytest.raises(PllavaError, match=r"no preprocessor_config\.json and no tokenizer\.json"):
        cpu(tmp_path / "merged")
    PllavaProcessor.from_pretrained(tiny_base_dir).save_pretrained(tmp_path / "merged")
    assert logits(cpu(tmp_path / "merged")).equal(logits(merged))


def respelled(**prefixes: str) -> Callable[[Tensors], None]:
    """A change of tensors: published prefix (with _ for .) -> another one."""
    parts = {"head": "language_model.lm_head.", "language": "language_model.model.", "tower": "vision_tower.vision_model.", "rest": ""}

    def change(tensors: Tensors) -> None:
        for key in list(tensors):
            part = next(name for name, prefix in parts.items() if key.startswith(prefix))
            tensors[prefixes.get(part, parts[part]) + key.removeprefix(parts[part])] = tensors.pop(key)

    return change


SPELLINGS = {
    "5.6": {"tower": "vision_tower."},
    "5.6 in memory": {"head": "lm_head.", "language": "model.language_model.", "tower": "model.vision_tower.", "rest": "model."},
    "4.52": {"head": "lm_head.", "language": "model.language_model.", "tower": "model.vision_tower.vision_model.", "rest": "model."},
    "head apart": {"head": "lm_head.", "language": "language_model."},
    "a language model within": {
        "language": "model.language_model.model.",
        "head": "lm_head.",
        "tower": "model.vision_tower.",
        "rest": "model.",
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_bases_tensors_is_one_model(spelling: str, tiny_base_dir: Path, copy_of: Any, tiny_model: Any) -> None:
    folder = copy_of(tiny_base_dir, respelled(**SPELLINGS[spelling]))
    assert logits(cpu(folder)).equal(logits(tiny_model))
    assert logits(AutoModelForImageTextToText.from_pretrained(folder).eval()).equal(logits(tiny_model))


@pytest.mark.parametrize("tiles", [False, True], ids=["llava", "llava_next"])
def test_a_base_as_todays_transformers_saves_it(tiles: bool, tiny_base_dir: Path, copy_of: Any, tiny_model: Any) -> None:
    folder = copy_of(tiny_base_dir)
    values = json.loads((folder / "config.json").read_text())
    configs = {key: values[key] for key in ("vision_config", "text_config", "image_token_index", "pad_token_id")}
    model = (
        LlavaNextForConditionalGeneration(LlavaNextConfig(**configs)) if tiles else LlavaForConditionalGeneration(LlavaConfig(**configs))
    )
    model.load_state_dict(dict(tiny_model.state_dict()) | ({"model.image_newline": torch.zeros(64)} if tiles else {}))
    model.save_pretrained(folder)
    assert any(key.startswith("vision_tower.encoder") for key in load_file(folder / "model.safetensors"))
    assert logits(cpu(folder, num_frames=4, pooling_shape=(4, 2, 2))).equal(logits(tiny_model))


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


def test_a_sharded_base_loads_and_a_lost_shard_is_named(tiny_base_dir: Path, tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="400KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(tiny_base_dir / file, tmp_path)
    assert logits(cpu(tmp_path)).equal(logits(tiny_model))
    (tmp_path / shards[1]).unlink()
    with pytest.raises(PllavaError, match=shards[1]):
        cpu(tmp_path)


@pytest.mark.parametrize("name", ["tiny56_lora_r8", "tiny56_lora_r128"])
def test_conversion_is_lossless_both_ways(name: str, reference: Path, tiny_base_dir: Path, copy_of: Any, tmp_path: Path) -> None:
    published = copy_of(reference / "ckpt" / name, use_pooling=False)
    ours = convert(published, tmp_path / "ours", base=str(tiny_base_dir), lora_alpha=4)
    back = convert(ours, tmp_path / "back")
    assert (back / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (published, back))
    assert {key: value for key, value in after.items() if before.get(key) != value} == {"lora_alpha": 4}
    again = convert(back, tmp_path / "again", base=str(tiny_base_dir))
    for file in ("adapter_model.safetensors", "adapter_config.json", "config.yaml", "manifest.json"):
        assert (again / file).read_bytes() == (ours / file).read_bytes()


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


def test_converting_removes_nothing_but_an_older_checkpoint(tiny_base_dir: Path, lora_dir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "models" / "notes.txt"
    adapter = shutil.copytree(lora_dir, tmp_path / "models" / "adapter")
    kept.write_text("mine")
    with pytest.raises(PllavaError, match=r"models is no checkpoint, it holds adapter, notes\.txt"):
        convert(lora_dir, kept.parent, base=str(tiny_base_dir))
    for target in (adapter, adapter.parent):
        with pytest.raises(PllavaError, match=r"adapter, which is read: it would be gone"):
            convert(adapter, target, base=str(tiny_base_dir))
    with pytest.raises(PllavaError, match=r"which is read"):
        export(tiny_base_dir, tiny_base_dir, adapter=adapter)
    assert kept.read_text() == "mine"
    assert (adapter / "model.safetensors").exists()
    for _ in range(2):  # an older one is replaced
        assert (convert(adapter, tmp_path / "models" / "ours", base=str(tiny_base_dir)) / "manifest.json").exists()


def test_transformers_4_finds_the_rotation_base_in_what_is_published(
    load_tiny: Any, tiny_base_dir: Path, lora_dir: Path, tmp_path: Path
) -> None:
    model = load_tiny("tiny56_base", fresh=True)
    model.config.text_config.rope_parameters = {"rope_theta": 5e6, "rope_type": "default"}  # Yi's, in the spelling of transformers 5
    model.save_pretrained(tmp_path / "base")
    back = convert(convert(lora_dir, tmp_path / "ours", base=str(tmp_path / "base")), tmp_path / "back")
    assert json.loads((back / "config.json").read_text())["text_config"]["rope_theta"] == 5e6


def test_alpha_is_the_callers_else_32_with_a_notice(tiny_base_dir: Path, lora_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pllava"):
        unsaid = logits(cpu(tiny_base_dir, adapter=lora_dir))
    assert "doesn't store LoRA's alpha: 32" in caplog.text
    model = cpu(tiny_base_dir, adapter=lora_dir, lora_alpha=32)
    assert logits(model).equal(unsaid)
    set_lora_alpha(model, 4)
    assert logits(model).equal(logits(cpu(tiny_base_dir, adapter=lora_dir, lora_alpha=4)))


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


LLAVA_1_6 = {  # text_config as published: what is Llama's default is left out
    "vicuna": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "torch_dtype": "float16", "pad_token_id": 0},
    "yi": {"_name_or_path": "NousResearch/Nous-Hermes-2-Yi-34B", "torch_dtype": "bfloat16", "rope_theta": 5000000.0, "use_cache": False},
}


@pytest.mark.parametrize("family", LLAVA_1_6)
def test_a_llava_1_6_base_loads_and_its_tile_separator_is_ignored_aloud(
    family: str, tiny_base_dir: Path, copy_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def add(tensors: Tensors) -> None:
        tensors["image_newline"] = torch.zeros(64)

    folder = copy_of(tiny_base_dir, add, model_type="llava_next", image_grid_pinpoints=[[56, 112]], use_image_newline_parameter=True)
    values = json.loads((folder / "config.json").read_text())
    for key in ("num_frames", "pooling_shape", "pooling_method", "use_pooling", "frame_shape", "pad_token_id"):
        del values[key]
    values["text_config"] |= LLAVA_1_6[family]
    (folder / "config.json").write_text(json.dumps(values))
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    tiles = {
        "image_processor_type": "LlavaNextImageProcessor",
        "aspect_ratio_setting": "anyres",
        "image_grid_pinpoints": [[56, 112]],
        "do_pad": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels | tiles | {"processor_class": "LlavaNextProcessor"}))
    published = {"processor_class": "LlavaNextProcessor", "image_token": "<image>", "patch_size": 14, "num_additional_image_tokens": 1}
    (folder / "processor_config.json").write_text(json.dumps(published | {"vision_feature_select_strategy": "default"}))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with caplog.at_level(logging.WARNING, "pllava"):
        model, processor = pllava.load(folder, num_frames=4, pooling_shape=(4, 2, 2), dtype="float32", device="cpu")
    assert "image_newline ignored" in caplog.text
    assert logits(model).equal(logits(cpu(tiny_base_dir))) == (family == "vicuna")
    rotation = model.model.language_model.rotary_emb.inv_freq[1].item()  # heads of 16
    assert rotation == pytest.approx({"vicuna": 1e4, "yi": 5e6}[family] ** (-2 / 16))
    assert model.config.pad_token_id == processor.tokenizer.pad_token_id  # these configs name none
    assert processor.num_visual_tokens == 16
    frames = np.random.default_rng(0).integers(0, 256, (4, 90, 160, 3), np.uint8)  # one 56 px square a frame, no tiles
    assert processor.preprocess_video(frames).equal(PllavaProcessor.from_pretrained(tiny_base_dir).preprocess_video(frames))
    assert pllava.load(folder, dtype="float32", device="cpu")[1].num_visual_tokens == 2304  # unsaid: as in the released models


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


def test_a_hub_id_loads_from_the_hubs_cache(tiny_base_dir: Path, lora_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, folder in (("base", tiny_base_dir), ("adapter", lora_dir)):
        repository = tmp_path / f"models--someone--{name}"
        shutil.copytree(folder, repository / "snapshots" / "0123abcd")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123abcd")
    wanted = logits(cpu(tiny_base_dir, adapter=lora_dir, lora_alpha=4))
    assert logits(cpu("someone/base", adapter="someone/adapter", lora_alpha=4)).equal(wanted)
    with pytest.raises(PllavaError, match="someone/other: no folder of this name here, and the hub can't give it"):
        cpu("someone/other")
    assert read_config("someone/base")["num_frames"] == 4


def test_eager_and_sdpa_agree_and_bf16_is_close(tiny_base_dir: Path, tiny_model: Any) -> None:
    torch.testing.assert_close(logits(cpu(tiny_base_dir, attn_implementation="eager")), logits(tiny_model), atol=2e-5, rtol=0)
    model, _ = pllava.load(tiny_base_dir, dtype="bf16", device="cpu")
    assert model.dtype == torch.bfloat16
    assert (logits(model).float() - logits(tiny_model)).abs().mean() < 0.05


def test_a_device_map_gives_the_same_model(tiny_base_dir: Path, tiny_model: Any) -> None:
    devices = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "cpu", "lm_head": "cpu"}
    assert logits(cpu(tiny_base_dir, device_map=devices)).equal(logits(tiny_model))


@register_quantization_config("whole-numbers")
class WholeNumbersConfig(QuantizationConfigMixin):
    """Stands for 8-bit packing, whose packages need a GPU: weights become whole hundredths."""

    def __init__(self, modules_to_not_convert: list[str] | None = None, **_: Any) -> None:
        self.quant_method, self.modules_to_not_convert = "whole-numbers", modules_to_not_convert


@register_quantizer("whole-numbers")
class WholeNumbers(HfQuantizer):
    requires_calibration = False
    is_trainable = False

    def is_serializable(self) -> bool:
        return False

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and should_convert_module(name, self.quantization_config.modules_to_not_convert):
                module.weight.data = (module.weight.data * 100).round() / 100


@pytest.mark.parametrize("config", [WholeNumbersConfig(), {"quant_method": "whole-numbers"}], ids=["config", "dict"])
def test_quantisation_packs_the_language_model_alone(config: Any, tiny_base_dir: Path, tiny_model: Any) -> None:
    packed = dict(cpu(tiny_base_dir, quantization_config=config).named_modules())
    linear = {name: module for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)}
    changed = {name for name, module in linear.items() if not module.weight.equal(packed[name].weight)}
    assert changed == {name for name in linear if name.startswith("model.language_model.")}


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_bitsandbytes_spares_tower_projector_and_head_beside_what_the_user_spares(bits: dict[str, bool], tiny_model: Any) -> None:
    config = language_model_only(BitsAndBytesConfig(llm_int8_skip_modules=["model.language_model.layers.0"], **bits))
    names = [name for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = {name for name in names if should_convert_module(name, config.llm_int8_skip_modules)}
    assert converted == {name for name in names if re.match(r"model\.language_model\.layers\.[12]\.", name)}


@pytest.mark.parametrize("model_type", ["llava", "pllava"])  # as published, as we save
def test_the_auto_classes_know_pllava(model_type: str, tiny_base_dir: Path, tiny_model: Any, tmp_path: Path) -> None:
    folder = tiny_base_dir
    if model_type == "pllava":
        folder = tmp_path
        tiny_model.save_pretrained(folder)
        assert load_file(folder / "model.safetensors").keys() == load_file(tiny_base_dir / "model.safetensors").keys()
        assert type(AutoConfig.from_pretrained(folder)).__name__ == "PllavaConfig"
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "PllavaForConditionalGeneration"
    assert logits(model.eval()).equal(logits(tiny_model))


def test_from_pretrained_is_strict_too(tiny_base_dir: Path, copy_of: Any) -> None:
    folder = copy_of(tiny_base_dir, lambda tensors: tensors.pop("multi_modal_projector.linear_2.bias"))
    with pytest.raises(PllavaError, match=r"missing_keys: .*linear_2\.bias"):
        AutoModelForImageTextToText.from_pretrained(folder)
