"""Put tower, projector and language model together as a LLaVA folder in float16: `python assemble.py` writes tiny-llava/ .

Keys and files are those of a published LLaVA checkpoint, so the folder takes the same loading code as the 7B one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from language import language_config
from safetensors.torch import load_file, save_file
from tower import IMAGE, MEAN, STD, tower_config
from transformers import PreTrainedTokenizerFast

from pllava.core.files import atomic_dir, write_json
from pllava.core.hashing import sha256_file

HERE = Path(__file__).parent
POOLING_SHAPE, NUM_FRAMES = [8, 3, 3], 8


def weights() -> dict[str, torch.Tensor]:
    tower = load_file(HERE / "build" / "tower.safetensors")
    base = load_file(HERE / "build" / "language.safetensors")
    named = {f"vision_tower.vision_model.{name.removeprefix('vision_model.')}": value for name, value in tower.items()}
    for name, value in base.items():
        if name.startswith("heads."):  # they taught looking; no part of the model
            continue
        named[name.replace("projector.", "multi_modal_projector.", 1) if name.startswith("projector.") else name] = value
    return {name: value.to(torch.float16).contiguous() for name, value in sorted(named.items())}


def main() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "tokenizer")
    text, vision = language_config(len(tokenizer)), tower_config()
    keep_text = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
    )
    keep_vision = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "projection_dim",
    )
    with atomic_dir(HERE / "tiny-llava") as folder:
        save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
        write_json(
            folder / "config.json",
            {
                "architectures": ["PllavaForConditionalGeneration"],
                "model_type": "llava",
                "torch_dtype": "float16",
                "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
                "pad_token_id": tokenizer.pad_token_id,
                "ignore_index": -100,
                "vocab_size": len(tokenizer),
                "projector_hidden_act": "gelu",
                "vision_feature_layer": -2,
                "vision_feature_select_strategy": "default",
                "num_frames": NUM_FRAMES,
                "pooling_shape": POOLING_SHAPE,
                "frame_shape": [IMAGE // vision.patch_size] * 2,
                "pooling_method": "avg",
                "use_pooling": True,
                "tie_word_embeddings": False,
                "text_config": {"model_type": "llama"} | {key: getattr(text, key) for key in keep_text},
                "vision_config": {"model_type": "clip_vision_model"} | {key: getattr(vision, key) for key in keep_vision},
            },
        )
        write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id})
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "CLIPImageProcessor",
                "processor_class": "PllavaProcessor",
                "do_resize": True,
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "resample": 3,
                "rescale_factor": 1 / 255,
                "size": {"shortest_edge": IMAGE},
                "crop_size": {"height": IMAGE, "width": IMAGE},
                "image_mean": [round(float(v), 8) for v in MEAN.double()],
                "image_std": [round(float(v), 8) for v in STD.double()],
            },
        )
        write_json(
            folder / "processor_config.json",
            {
                "processor_class": "PllavaProcessor",
                "num_frames": NUM_FRAMES,
                "pooling_shape": POOLING_SHAPE,
                "shortest_edge": IMAGE,
                "longest_edge": 762,
                "center_pad": False,
            },
        )
        for path in sorted((HERE / "tokenizer").iterdir()):
            shutil.copy(path, folder / path.name)
        if (HERE / "MODEL_CARD.md").is_file():
            shutil.copy(HERE / "MODEL_CARD.md", folder / "README.md")
        write_json(folder / "manifest.json", {"files": {p.name: sha256_file(p) for p in sorted(folder.iterdir())}})
    size = sum(path.stat().st_size for path in (HERE / "tiny-llava").iterdir())
    print(f"tiny-llava: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
