"""A base out of a tower and a language model keeps both, and loads like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

import pllava
from pllava.model.compose import compose

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_parts_keep_their_weights(kind: str, tiny_base_dir: Path, tmp_path: Path) -> None:
    tower = CLIPVisionModel(CLIPVisionConfig(**SIZES)) if kind == "clip" else SiglipVisionModel(SiglipVisionConfig(**SIZES))
    tower.eval().save_pretrained(tmp_path / "tower")
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    decoder = LlamaForCausalLM(LlamaConfig(vocab_size=600, **text))  # no rows for <image> and <pad> yet
    decoder.save_pretrained(tmp_path / "language")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base_dir / file, tmp_path / "language")

    out = compose(str(tmp_path / "tower"), str(tmp_path / "language"), tmp_path / "base", num_frames=2, pooling_shape=(2, 2, 2))
    model, processor = pllava.load(out, dtype="float32", device="cpu")
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        features = model.vision_features(pixels)
    torch.testing.assert_close(features, states[:, 1:] if kind == "clip" else states, atol=1e-5, rtol=0)
    assert model.lm_head.weight[:600].equal(decoder.lm_head.weight)
    assert model.model.language_model.layers[1].mlp.up_proj.weight.equal(decoder.model.layers[1].mlp.up_proj.weight)
    batch = processor(text=["a <image> b"], videos=[torch.zeros(2, 40, 30, 3, dtype=torch.uint8).numpy()])
    assert model(**batch).logits.shape == (1, batch["input_ids"].shape[1], 602)
