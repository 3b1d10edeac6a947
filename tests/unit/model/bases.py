"""Tiny random folders of the LLaVA family, written by transformers' own classes, in every layout that transformers has had."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

WORDS = 608  # of the tiny tokenizer, <image> is 600; <video> and the markers of chats come behind
ROWS = 640  # of the embeddings: padded beyond the tokenizer's
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
CLIP |= {"image_size": 56, "patch_size": 14, "projection_dim": 16}
SIGLIP = {key: value for key, value in CLIP.items() if key != "projection_dim"} | {"model_type": "siglip_vision_model"}
SIGLIP |= {"vision_use_head": False, "image_size": 63, "patch_size": 7}  # 9 x 9 patches: an odd grid as the 27 x 27 of so400m
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": ROWS, "bos_token_id": 1, "eos_token_id": 2}

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}{% for content in message['content'] | \
selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{% for content in message['content'] | \
selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}{% if message['role'] != 'assistant' %}{% for content in \
message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + content['text'] }}{% endfor %}{% else %}{% for content in \
message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}\
{% endif %}{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

FAMILIES: dict[str, dict[str, Any]] = {
    "llava 1.5": {"vision": CLIP, "text": "llama", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    "bakllava": {"vision": CLIP, "text": "mistral", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    "interleave": {"vision": SIGLIP, "text": "qwen2", "vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "onevision": {"vision": SIGLIP, "text": "qwen2", "tie": True},
}


def write_base(family: str, folder: Path, tokenizer_dir: Path, chat_template: str | None = CHATML, seed: int = 0) -> Any:
    """A folder as today's transformers writes it, with the processor's files. Returns transformers' own model, in eval mode."""
    values = {**FAMILIES[family]}
    vision, text, tie = values.pop("vision"), values.pop("text"), values.pop("tie", False)
    onevision = family == "onevision"
    config = (LlavaOnevisionConfig if onevision else LlavaConfig)(
        vision_config=AutoConfig.for_model(**vision),
        text_config=AutoConfig.for_model(text, **TEXT, tie_word_embeddings=tie),
        image_token_index=600,
        tie_word_embeddings=tie,
        **({"video_token_index": 608, "image_grid_pinpoints": [[63, 126]]} if onevision else {}),
        **values,
    )
    torch.manual_seed(seed)
    model = (LlavaOnevisionForConditionalGeneration if onevision else LlavaForConditionalGeneration)(config).eval()
    for parameter in model.parameters():  # far enough from 0 that a wrong layer or order shows
        parameter.data += 0.05 * torch.randn(parameter.shape)
    if onevision:
        model.model.image_newline.data.normal_()
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in ("<video>", "<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    side = vision["image_size"]
    if vision is CLIP:
        images: Any = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    elif onevision:
        images = LlavaOnevisionImageProcessorPil(
            size={"height": side, "width": side}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.6, 0.7], image_grid_pinpoints=[[63, 126]]
        )
    else:
        images = SiglipImageProcessorPil(size={"height": side, "width": side})
    images.save_pretrained(folder)
    return model


LAYOUTS = ("old hub", "4.52", "5.6")
_PARTS = r"vision_tower\.|language_model\.|multi_modal_projector\.|image_newline"


def write_layout(source: Path, target: Path, layout: str) -> Path:
    """A copy of the folder with the tensors' names of that version of transformers."""
    shutil.copytree(source, target)
    tensors = {}
    for key, value in load_file(source / "model.safetensors").items():
        name = re.sub(r"^model\.(?=" + _PARTS + ")", "", key)
        name = re.sub(r"^language_model\.lm_head\.", "lm_head.", re.sub(r"^language_model\.model\.", "language_model.", name))
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
        if layout != "5.6":
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        if layout == "old hub":
            name = re.sub(r"^lm_head\.", "language_model.lm_head.", re.sub(r"^language_model\.", "language_model.model.", name))
        elif not name.startswith("lm_head."):
            name = f"model.{name}"
        tensors[name] = value
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def change_config(folder: Path, file: str = "config.json", **values: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder
