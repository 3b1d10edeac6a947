"""The released 7B, 13B and 34B, on the meta device: the published names and shapes, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from pllava.core.files import read_json
from pllava.model.configuration import PllavaConfig
from pllava.model.load import expected_tensors
from pllava.model.modeling import PllavaForConditionalGeneration

MODELS = Path(__file__).parents[3] / "recipes" / "models"
SIZES = {  # hidden, intermediate, layers, key/value width, vocabulary; billions of parameters
    "pllava-7b": (4096, 11008, 32, 4096, 32064, 7.06),
    "pllava-13b": (5120, 13824, 40, 5120, 32064, 13.35),
    "pllava-34b": (7168, 20480, 60, 1024, 64064, 34.75),
}


def published_shapes(hidden: int, intermediate: int, layers: int, kv: int, vocabulary: int) -> dict[str, list[int]]:
    """The tensors of a published checkpoint: CLIP ViT-L/14 at 336 pixels, two-layer projector, Llama."""
    tower, text = "vision_tower.vision_model.", "language_model.model."
    shapes = {
        f"{tower}embeddings.class_embedding": [1024],
        f"{tower}embeddings.patch_embedding.weight": [1024, 3, 14, 14],
        f"{tower}embeddings.position_embedding.weight": [577, 1024],
        "multi_modal_projector.linear_1.weight": [hidden, 1024],
        "multi_modal_projector.linear_1.bias": [hidden],
        "multi_modal_projector.linear_2.weight": [hidden, hidden],
        "multi_modal_projector.linear_2.bias": [hidden],
        f"{text}embed_tokens.weight": [vocabulary, hidden],
        f"{text}norm.weight": [hidden],
        "language_model.lm_head.weight": [vocabulary, hidden],
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{tower}{norm}.{kind}": [1024] for kind in ("weight", "bias")}
    for i in range(24):
        layer = f"{tower}encoder.layers.{i}."
        for name, rows, columns in [(f"self_attn.{n}_proj", 1024, 1024) for n in ("q", "k", "v", "out")] + [
            ("mlp.fc1", 4096, 1024),
            ("mlp.fc2", 1024, 4096),
        ]:
            shapes |= {f"{layer}{name}.weight": [rows, columns], f"{layer}{name}.bias": [rows]}
        shapes |= {f"{layer}layer_norm{n}.{kind}": [1024] for n in (1, 2) for kind in ("weight", "bias")}
    for i in range(layers):
        layer = f"{text}layers.{i}."
        shapes |= {f"{layer}self_attn.{n}_proj.weight": [width, hidden] for n, width in (("q", hidden), ("k", kv), ("v", kv))}
        shapes |= {f"{layer}self_attn.o_proj.weight": [hidden, hidden]}
        shapes |= {f"{layer}mlp.{n}_proj.weight": [intermediate, hidden] for n in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": [hidden, intermediate]}
        shapes |= {f"{layer}{n}_layernorm.weight": [hidden] for n in ("input", "post_attention")}
    return shapes


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_are_the_published_ones_both_ways(name: str) -> None:
    *sizes, billions = SIZES[name]
    wanted = published_shapes(*sizes)
    config = PllavaConfig.from_llava(read_json(MODELS / f"{name}.json"))
    assert config.num_visual_tokens == 2304
    assert {key: list(shape) for key, shape in expected_tensors(config).items()} == wanted

    with torch.device("meta"):
        model = PllavaForConditionalGeneration(config)
    state = model.state_dict()
    saved = revert_weight_conversion(model, state)
    assert {key: list(value.shape) for key, value in saved.items()} == wanted

    loaded = set()
    for key in wanted:
        for renaming in get_model_conversion_mapping(model):
            key, _ = renaming.rename_source_key(key)
        loaded.add(key)
    assert loaded == set(state)
    assert sum(value.numel() for value in state.values()) / 1e9 == pytest.approx(billions, abs=0.01)
