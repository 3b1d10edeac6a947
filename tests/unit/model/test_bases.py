"""Bases of the LLaVA family equal transformers' own classes on the same weights, in every layout of their folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bases import FAMILIES, LAYOUTS, change_config, write_base, write_layout
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import adaptive_avg_pool3d
from transformers import AutoImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import pllava
from pllava.core.errors import PllavaError

POOLED = {"num_frames": 3, "pooling_shape": (3, 4, 4)}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, tiny_base_dir: Path) -> Callable[[str], tuple[Path, Any]]:
    """Folder and transformers' model of a family; made once."""
    made: dict[str, tuple[Path, Any]] = {}

    def make(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("base") / name.replace(" ", "-")
            made[name] = folder, write_base(name, folder, tiny_base_dir)
        return made[name]

    return make


@pytest.fixture
def copy_of(family: Any, tmp_path: Path) -> Callable[..., Path]:
    def copy(name: str, **config: Any) -> Path:
        return change_config(Path(shutil.copytree(family(name)[0], tmp_path / "base")), **config)

    return copy


def cpu(folder: Path, **settings: Any) -> tuple[Any, Any]:
    return pllava.load(folder, dtype="float32", device="cpu", **(POOLED | settings))


def pooled_logits(theirs: Any, ids: torch.Tensor, pixels: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """PLLaVA's forward from transformers' parts alone: tower -> projector -> average pooling -> placeholders -> language model."""
    config, model = theirs.config, theirs.model
    states = model.vision_tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        states = states[:, 1:]
    tokens = model.multi_modal_projector(states)  # [T, P, D]
    side = config.vision_config.image_size // config.vision_config.patch_size
    grid = tokens.unflatten(1, (side, side)).permute(3, 0, 1, 2)[None]  # [1, D, T, H, W]
    pooled = adaptive_avg_pool3d(grid, shape)[0].flatten(1).T  # [N, D]
    embeddings = model.get_input_embeddings()(ids)
    embeddings[ids == config.image_token_index] = pooled
    return theirs.lm_head(model.language_model(inputs_embeds=embeddings).last_hidden_state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_base_equals_transformers_own_classes(name: str, layout: str, family: Any, tmp_path: Path) -> None:
    folder, theirs = family(name)
    model, processor = cpu(write_layout(folder, tmp_path / "base", layout))
    side = model.config.vision_config.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))

    states = theirs.model.vision_tower(pixels, output_hidden_states=True).hidden_states[theirs.config.vision_feature_layer]
    if theirs.config.vision_feature_select_strategy == "default":
        states = states[:, 1:]
    features = model.vision_features(pixels)
    torch.testing.assert_close(features, states, atol=1e-5, rtol=0)
    projector = model.model.multi_modal_projector
    projected = projector.linear_2(projector.act(projector.linear_1(features)))
    torch.testing.assert_close(projected, theirs.model.multi_modal_projector(states), atol=1e-5, rtol=0)

    text = torch.tensor([[1, 5, 9, 77, 300, 41]])
    torch.testing.assert_close(model(input_ids=text).logits, theirs(input_ids=text).logits, atol=1e-5, rtol=0)
    ids = torch.tensor([[1, 5, *[processor.image_token_id] * processor.num_visual_tokens, 77, 300]])
    wanted = pooled_logits(theirs, ids, pixels, POOLED["pooling_shape"])
    torch.testing.assert_close(model(input_ids=ids, pixel_values_videos=pixels[None]).logits, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["interleave", "onevision"])
def test_pixels_are_those_of_the_folders_own_image_processor(name: str, family: Any) -> None:
    folder, _ = family(name)
    processor = cpu(folder)[1]
    own = SiglipImageProcessorPil.from_pretrained(folder)  # squashes, with the values of the folder
    for height, width in ((40, 90), (63, 63), (200, 71), (500, 900)):
        frames = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
        wanted = own([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(processor.preprocess_video(frames), wanted, atol=1e-6, rtol=0)
    if name == "onevision":  # the first picture of its own class is the whole frame, the others are tiles
        whole = AutoImageProcessor.from_pretrained(folder, backend="pil")(Image.fromarray(frames[0]), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(processor.preprocess_video(frames)[0], whole[0, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_base_survives_saving(name: str, family: Any, tmp_path: Path) -> None:
    model, processor = cpu(family(name)[0])
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again, processor_again = pllava.load(tmp_path / "again", dtype="float32", device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 50, 80, 3), np.uint8)
    batch, batch_again = (p(text="a <image> b", videos=frames) for p in (processor, processor_again))
    assert again(**batch_again).logits.equal(model(**batch).logits)
    assert processor_again.tokenizer.chat_template or processor_again.chat_template


def test_processor_files_of_transformers_5_are_read(family: Any, tmp_path: Path) -> None:
    """One processor_config.json that holds the image processor, and no preprocessor_config.json."""
    folder = Path(shutil.copytree(family("onevision")[0], tmp_path / "base"))
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"image_processor": pixels, "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 81, "image_token": "<image>"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    frames = np.random.default_rng(0).integers(0, 256, (3, 50, 80, 3), np.uint8)
    assert cpu(folder)[1].preprocess_video(frames).equal(cpu(family("onevision")[0])[1].preprocess_video(frames))


@pytest.mark.parametrize("stored", ["no head", "the same head", "another head"])
@torch.no_grad()
def test_tied_embeddings_with_and_without_a_stored_head(stored: str, family: Any, tmp_path: Path) -> None:
    """OneVision's file ties in text_config and says false at its top."""
    source, theirs = family("onevision")
    folder = change_config(write_layout(source, tmp_path / "base", "old hub"), tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    words = tensors["language_model.model.embed_tokens.weight"]
    head = {"no head": None, "the same head": words.clone(), "another head": words + 0.1}[stored]
    tensors.pop("language_model.lm_head.weight", None)
    if head is not None:
        tensors["language_model.lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, _ = cpu(folder)
    text = torch.tensor([[1, 5, 9, 77]])
    hidden = theirs.model.language_model(input_ids=text).last_hidden_state
    wanted = hidden @ (words if head is None else head).T
    torch.testing.assert_close(model(input_ids=text).logits, wanted, atol=1e-5, rtol=0)
    model.save_pretrained(folder)
    torch.testing.assert_close(cpu(folder)[0](input_ids=text).logits, wanted, atol=1e-5, rtol=0)


def test_what_a_file_leaves_out_is_its_own_kinds_default(family: Any, copy_of: Any) -> None:
    folder = copy_of("onevision")
    values = json.loads((folder / "config.json").read_text())
    for key in ("vision_feature_layer", "vision_feature_select_strategy", "image_token_index"):
        values.pop(key, None)
    (folder / "config.json").write_text(json.dumps(values | {"image_token_index": 600}))
    config = cpu(folder)[0].config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-1, "full")


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("onevision", {"vision_feature_select_strategy": "default"}, "'default' drops the class token, .* siglip_vision_model, has none"),
        ("llava 1.5", {"vision_feature_select_strategy": "full"}, "'full' reads 17 features .* clip_vision_model, .* 4 x 4 = 16 patches"),
        ("interleave", {"vision_feature_layer": -9}, "vision_feature_layer is -9, and the tower, a siglip_vision_model, has 4 layers"),
        ("interleave", {"vision_feature_layer": [-2, -1]}, r"vision_feature_layer is \[-2, -1\]; PLLaVA reads one layer"),
        ("interleave", {"image_token_index": 601}, "<image> is token 600 of tokenizer.json, and config.json has image_token_index 601"),
        ("interleave", {"vision_config": {"model_type": "pixtral"}}, "'pixtral', .* no fixed grid"),
        ("interleave", {"model_type": "vipllava"}, "'vipllava', .* several layers"),
        ("interleave", {"model_type": "idefics3"}, "'idefics3', .* Idefics"),
        ("interleave", {"model_type": "smolvlm"}, "'smolvlm', .* SmolVLM"),
        ("interleave", {"model_type": "qwen2_5_vl"}, "'qwen2_5_vl', .* Qwen-VL"),
        ("interleave", {"model_type": "bert"}, "model_type 'bert'; a PLLaVA base is 'llava', .*'llava_onevision'"),
        ("interleave", {"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
        ("interleave", {"vision_config": {"model_type": "dinov2", "image_size": 63, "patch_size": 7}}, "dinov2, is not built like CLIP"),
    ],
)
def test_what_is_no_base_is_refused_with_the_reason(name: str, config: Any, sentence: str, copy_of: Any) -> None:
    with pytest.raises(PllavaError, match=sentence) as caught:
        cpu(copy_of(name, **config))
    assert "base" in str(caught.value)  # the folder is named


@pytest.mark.parametrize(
    ("name", "pixels", "sentence"),
    [
        ("onevision", {"size": {"height": 56, "width": 56}}, r"pictures of 56 x 56 pixels \(size\), and the tower takes 63 x 63"),
        ("onevision", {"size": {"height": 63, "width": 126}}, r"pictures of 126 x 63 pixels \(size\), and the tower takes 63 x 63"),
        ("interleave", {"do_resize": False}, "does not resize"),
        ("llava 1.5", {"do_center_crop": False}, "does not resize or crop"),
        ("llava 1.5", {"resample": 2}, "resample 2; a short side is resized by bicubic"),
        ("interleave", {"image_processor_type": "PixtralImageProcessor"}, "a PixtralImageProcessor makes its pictures"),
        ("llava 1.5", {"image_processor_type": "LlavaImageProcessor", "do_pad": True}, "pads frames to squares"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(name: str, pixels: Any, sentence: str, copy_of: Any) -> None:
    with pytest.raises(PllavaError, match=sentence):
        cpu(change_config(copy_of(name), "preprocessor_config.json", **pixels))
