"""The mid config that the benchmarks of training and inference measure: CLIP 192 x 6 at 336 pixels, Llama 256 x 6, 16 frames pooled to
16 x 12 x 12 = 2,304 visual tokens."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests/reference/ckpt/tiny56_base"  # its tokenizer


def write_base(folder: Path) -> None:
    """The mid config with random weights, in the published layout."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    from pllava.model.configuration import PllavaConfig
    from pllava.model.modeling import PllavaForConditionalGeneration

    tiny = json.loads((TINY / "config.json").read_text())
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=336,
        patch_size=14,
        projection_dim=192,
    )
    text = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=32064,
        max_position_embeddings=16384,
        pad_token_id=tiny["pad_token_id"],
    )
    llava = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tiny["image_token_index"])
    config = PllavaConfig.from_llava(llava.to_dict(), num_frames=16, pooling_shape=(16, 12, 12))
    torch.manual_seed(0)
    PllavaForConditionalGeneration(config).save_pretrained(folder)
    processing = (TINY / "preprocessor_config.json").read_text().replace("56", "336")
    (folder / "preprocessor_config.json").write_text(processing)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((TINY / name).read_bytes())
