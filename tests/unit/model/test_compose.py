"""A base out of a tower and a language model keeps both, and loads like any other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import pllava
from pllava.core.errors import PllavaError
from pllava.model.compose import compose

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
WORDS = 600  # no rows for <image> and <pad> yet
TEXT = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODERS = {
    "llama": LlamaConfig(**TEXT, num_key_value_heads=1),
    "mistral": MistralConfig(**TEXT, num_key_value_heads=1),
    "qwen2, tied": Qwen2Config(**TEXT, num_key_value_heads=1, tie_word_embeddings=True),
    "gpt-neox, embed_in": GPTNeoXConfig(**TEXT),
    "gpt2, tied to wte": GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_inner=32),
}


def clip() -> Any:
    return CLIPVisionModel(CLIPVisionConfig(**SIZES))


def whole_clip() -> Any:
    """A checkpoint that holds the text half too, as CLIP is published."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    return CLIPModel(CLIPConfig(vision_config=SIZES, text_config=text | {"bos_token_id": 1, "eos_token_id": 2}))


def siglip() -> Any:
    return SiglipVisionModel(SiglipVisionConfig(**SIZES))


@pytest.fixture
def parts(tiny_base_dir: Path, tmp_path: Path) -> Callable[[Any, Any], tuple[Any, Any, list[str]]]:
    """Random tower and decoder, saved; their folders are what compose takes."""

    def make(tower: Any, config: Any) -> tuple[Any, Any, list[str]]:
        torch.manual_seed(0)
        decoder = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        tower.eval().save_pretrained(tmp_path / "tower")
        decoder.save_pretrained(tmp_path / "language")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_base_dir / file, tmp_path / "language")
        return tower, decoder, [str(tmp_path / "tower"), str(tmp_path / "language")]

    return make


@pytest.mark.parametrize("make_tower", [clip, whole_clip, siglip])
@torch.no_grad()
def test_the_tower_keeps_its_features(make_tower: Any, parts: Any, tmp_path: Path) -> None:
    tower, _, folders = parts(make_tower(), DECODERS["llama"])
    base = compose(*folders, tmp_path / "base", num_frames=2, pooling_shape=(2, 2, 2))
    model, processor = pllava.load(base, dtype="float32", device="cpu")
    assert processor.squashes == (make_tower is siglip)
    assert processor.image_processor.image_mean[0] == pytest.approx(0.5 if make_tower is siglip else 0.48145466)
    pixels = torch.randn(2, 3, 28, 28)
    states = getattr(tower, "vision_model", tower)(pixels, output_hidden_states=True).hidden_states[-2]
    wanted = states if make_tower is siglip else states[:, 1:]  # SigLIP has no class token to drop
    torch.testing.assert_close(model.vision_features(pixels), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_the_language_model_keeps_its_logits(name: str, parts: Any, tmp_path: Path) -> None:
    _, decoder, folders = parts(clip(), DECODERS[name])
    model, processor = pllava.load(
        compose(*folders, tmp_path / "base", num_frames=2, pooling_shape=(2, 2, 2)), dtype="float32", device="cpu"
    )
    ids = torch.tensor([[1, 5, 9, 77, 300, 41]])
    torch.testing.assert_close(model(input_ids=ids).logits[..., :WORDS], decoder(input_ids=ids).logits, atol=1e-5, rtol=0)
    batch = processor(text=["a <image> b", "<image>"], videos=[np.zeros((2, 40, 30, 3), np.uint8)] * 2)
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, batch["input_ids"].shape[1] + 2)


def test_a_decoder_that_scales_its_logits_is_refused(parts: Any, tmp_path: Path) -> None:
    _, _, folders = parts(clip(), GraniteConfig(**TEXT, num_key_value_heads=1, logits_scaling=8.0))
    with pytest.raises(PllavaError, match="more than multiply by its output layer"):
        compose(*folders, tmp_path / "base")
    assert not (tmp_path / "base").exists()
