"""`pllava.load` loads a model and its processor from a folder or hub id in any of the four layouts.

model, processor = pllava.load("ermu2001/pllava-7b")
model, processor = pllava.load("outputs/train/adapter")                           # an adapter of ours names its base
model, processor = pllava.load("llava-hf/llava-v1.6-vicuna-7b-hf", adapter=folder, lora_alpha=4)
"""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import GenerationConfig
from transformers.quantizers.auto import AutoQuantizationConfig

from pllava.core.errors import PllavaError
from pllava.model import adapter as lora
from pllava.model import familiarity, layouts, sources
from pllava.model.configuration import VIDEO_KEYS, PllavaConfig, layer_counts
from pllava.model.layouts import Checkpoint, logger
from pllava.model.modeling import PllavaForConditionalGeneration
from pllava.model.processing import IMAGE_TOKEN, PllavaProcessor

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip
HASHED_AT_LOAD = 1 << 30  # bytes; hashing a larger base would take longer than loading it


def load(
    base: str | Path,
    adapter: str | Path | None = None,
    lora_alpha: float | None = None,
    num_frames: int | None = None,
    pooling_shape: tuple[int, int, int] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    attn_implementation: str = "sdpa",
    merge: bool = False,
    pooling_method: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
) -> tuple[Any, PllavaProcessor]:
    """The model (in eval mode) and its processor. Loads nothing unless every tensor fits the model.

    base: folder or hub id of a base, a full model, or an adapter of ours (which names its base).
    adapter: folder, hub id, or registry uri (models:/pllava@champion) of LoRA and projector.
    lora_alpha: strength of LoRA; default: the folder's alpha, else 32 with a warning. merge: add LoRA to the weights.
    num_frames, pooling_shape, pooling_method: default: the adapter's, else the base's, else 16, (16, 12, 12) and "avg".
    device_map, quantization_config: transformers' own; quantisation leaves tower, projector and head alone.
    Raises PllavaError for a wrong folder or a wrong setting.
    """
    _check_attention(attn_implementation)
    checkpoint, adapter_checkpoint = _read_checkpoints(base, adapter)
    config = _config(
        checkpoint, adapter_checkpoint, {"num_frames": num_frames, "pooling_shape": pooling_shape, "pooling_method": pooling_method}
    )
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    logger.info("device %s, dtype %s, attention %s", chosen_device, chosen_dtype, attn_implementation)
    if quantization_config is not None:
        quantization_config = language_model_only(quantization_config)
        device_map = device_map or {"": chosen_device}
    processor = _processor(checkpoint.folder, config)
    if config.pad_token_id is None:
        config.pad_token_id = processor.tokenizer.pad_token_id
    model: Any = _plain_model(checkpoint, config, chosen_dtype, attn_implementation, device_map, quantization_config)
    model.familiarity = familiarity.read((adapter_checkpoint or checkpoint).folder)
    if adapter_checkpoint is not None:
        model = lora.attach(model, adapter_checkpoint, lora_alpha)
        if merge:
            model = model.merge_and_unload()
    elif lora_alpha is not None or merge:
        raise PllavaError(f"{base}: there is no LoRA to scale or merge; give one: pllava.load(base, adapter=folder)")
    if device_map is None:
        model = model.to(chosen_device)
    return model.eval(), processor


def _read_checkpoints(base: str | Path, adapter: str | Path | None) -> tuple[Checkpoint, Checkpoint | None]:
    """The checkpoint with the plain model, and the checkpoint with LoRA and projector or None. In the full layout both are the same one."""
    if adapter is None and sources.scheme_of(base):
        base = sources.resolve(str(base)).folder
    plain = layouts.read(layouts.resolve(base))
    adapted = None
    if adapter is not None:
        folder = sources.resolve(str(adapter)).folder if sources.scheme_of(adapter) else layouts.resolve(adapter)
        adapted = layouts.read(folder)
    elif plain.layout == "peft":
        adapted, plain = plain, layouts.read(layouts.resolve(lora.base_of(plain.folder)))
    elif plain.layout == "full":
        adapted = plain
    if adapted is not None and adapted.layout == "full":  # it holds the plain model too
        if plain.folder.resolve() != adapted.folder.resolve():
            logger.warning("%s holds a whole model: %s is not read", adapted.folder, plain.folder)
        plain = adapted
    if plain.layout not in ("base", "full"):
        raise PllavaError(
            f"{plain.folder}: only LoRA and projector in here. Give the base too: pllava.load(base, adapter={str(plain.folder)!r})"
        )
    if adapted is not None and adapted.layout == "base":
        if not any(key.startswith("language_model.") for key in adapted.base):
            raise PllavaError(f"{adapted.folder}: no LoRA in here, only {', '.join(sorted(adapted.base)[:4])} ...: it is no adapter")
        raise PllavaError(f"{adapted.folder}: a whole model without LoRA. Load it alone: pllava.load({str(adapted.folder)!r})")
    if adapted is not None and adapted.layout == "peft" and (adapted.folder / "manifest.json").exists():
        _check_base(plain.folder, lora.verify_adapter(adapted.folder), adapted.folder)
    return plain, adapted


def _check_base(base: Path, manifest: dict[str, Any], folder: Path) -> None:
    """Raises PllavaError if the base's weights are not those that the adapter `folder` was trained on. Skips large bases."""
    expected = manifest.get("base_sha256")
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    if expected and size <= HASHED_AT_LOAD and lora.base_sha256(base) != expected:
        raise PllavaError(f"{folder} was trained on another base than {base}: the weights there have changed. Train again: pllava train")


def _config(checkpoint: Checkpoint, adapter_checkpoint: Checkpoint | None, overrides: dict[str, Any]) -> PllavaConfig:
    """The base's config with the video settings of `overrides` (None: not set), else of the adapter."""
    if not checkpoint.config:
        raise PllavaError(f"{checkpoint.folder}: no config.json beside the weights")
    adapter_settings: dict[str, Any] = {}
    if adapter_checkpoint is not None:
        adapter_settings = adapter_checkpoint.config or lora.resolved_config(adapter_checkpoint.folder).get("model") or {}
    settings = {key: adapter_settings[key] for key in VIDEO_KEYS if key in adapter_settings} | {
        key: value for key, value in overrides.items() if value is not None
    }
    # A layer has one tensor at least. A config that asks for 10^7 layers would be built for hours, before any tensor is missed.
    for key, count in layer_counts(checkpoint.config):
        if count > len(checkpoint.base):
            raise PllavaError(
                f"{checkpoint.folder}/config.json has {key} {count}, and the weights beside it are {len(checkpoint.base)} tensors. "
                "Fetch the folder again"
            )
    try:
        return PllavaConfig.from_llava(checkpoint.config, **settings)
    except PllavaError as error:
        raise PllavaError(f"{checkpoint.folder}: {error}") from error
    except Exception as error:  # of any class: the values in a foreign file go to constructors of the library
        raise _no_model(checkpoint.folder, error) from error


def _no_model(folder: Path, error: Exception) -> PllavaError:
    return PllavaError(
        f"{folder}/config.json describes no model: {error.__cause__ or error or type(error).__name__}. Fetch the folder again"
    )


def _plain_model(
    checkpoint: Checkpoint, config: PllavaConfig, dtype: torch.dtype, attention: str, device_map: Any, quantization: Any
) -> Any:
    tensors = layouts.without_ignored(checkpoint.base, checkpoint.folder)
    try:
        expected = expected_tensors(config)
    except PllavaError as error:
        raise PllavaError(f"{checkpoint.folder}: {error}") from error
    except Exception as error:  # as above
        raise _no_model(checkpoint.folder, error) from error
    if config.tie_word_embeddings and "language_model.lm_head.weight" not in tensors:
        del expected["language_model.lm_head.weight"]
    layouts.check(expected, tensors, checkpoint.folder)
    if not sys.stderr.isatty():  # a progress bar would fill a log file
        transformers.utils.logging.disable_progress_bar()
    try:
        model = PllavaForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=attention,
            device_map=device_map,
            quantization_config=quantization,
        )
    except ValueError as error:
        if "attn_implementation" not in str(error):
            raise
        raise PllavaError(
            f"{checkpoint.folder}: no {attention} attention for this language model. Use attn_implementation='eager'"
        ) from error
    if (checkpoint.folder / "generation_config.json").exists():
        try:
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder)
        except Exception as error:  # of any class, as above
            raise PllavaError(f"{checkpoint.folder}/generation_config.json does not load: {error}. Fetch the folder again") from None
    return model


def expected_tensors(config: PllavaConfig) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor of a model with this config. Uses the meta device, so a large model takes no memory."""
    with torch.device("meta"):
        model = PllavaForConditionalGeneration(config)
    return {layouts.published_name(key): tuple(value.shape) for key, value in model.state_dict().items()}


def _processor(folder: Path, config: PllavaConfig) -> PllavaProcessor:
    names = ("preprocessor_config.json", "processor_config.json"), ("tokenizer.json",)
    missing = [choice[0] for choice in names if not any((folder / name).exists() for name in choice)]
    if missing:
        raise PllavaError(f"{folder}: no {' and no '.join(missing)}. Copy the processor's files from the base the weights were made from")
    file, _ = layouts.preprocessing(folder)
    try:
        processor = PllavaProcessor.from_pretrained(folder, num_frames=config.num_frames, pooling_shape=config.visual_shape)
    except PllavaError:
        raise
    except Exception as error:  # OSError, ValueError, and plain Exception from the Rust tokenizer
        raise PllavaError(f"{folder}: the processor's files do not load: {error}. Fetch the folder again") from error
    _check_pictures(file, processor, config)
    if processor.image_token_id != config.image_token_index:
        raise PllavaError(
            f"{folder}: {IMAGE_TOKEN} is token {processor.image_token_id} of tokenizer.json, and config.json has image_token_index "
            f"{config.image_token_index}. Copy the processor's files from the base the weights were made from"
        )
    if (rows := config.text_config.vocab_size) <= processor.image_token_id:
        raise PllavaError(f"{folder}: the language model has {rows} tokens, and {IMAGE_TOKEN} is token {processor.image_token_id}")
    return processor


def _check_pictures(file: Path, processor: PllavaProcessor, config: PllavaConfig) -> None:
    """Raises PllavaError unless the processor makes pictures of the size that the tower takes."""
    images, side = processor.image_processor, config.vision_config.image_size
    tower = f"the tower takes {side} x {side} pixels (vision_config.image_size in config.json)"
    advice = "Copy the processor's files from the base the weights were made from"
    key = "size" if processor.squashes else "crop_size"
    if not {"height", "width"} <= {*dict(images.size if processor.squashes else images.crop_size)}:
        raise PllavaError(f"{file} has the size {dict(images.size)}, which makes no pictures of one size, and {tower}. {advice}")
    width, height = processor.crop
    if (width, height) != (side, side):
        raise PllavaError(f"{file} makes pictures of {width} x {height} pixels ({key}), and {tower}. {advice}")
    if not images.do_resize or not (processor.squashes or images.do_center_crop):
        raise PllavaError(f"{file} does not resize or crop pictures to one size, and {tower}. {advice}")
    if processor.short_side < side:
        raise PllavaError(f"{file} resizes the short side to {processor.short_side} pixels, and {tower}. {advice}")
    if not processor.squashes and images.resample != Image.Resampling.BICUBIC:
        raise PllavaError(f"{file} has resample {images.resample}; a short side is resized by bicubic interpolation here (3). {advice}")


def choose_device(device: str | torch.device) -> torch.device:
    """auto: cuda if there is one, else mps, else cpu. Raises PllavaError for a device that this machine lacks."""
    if str(device) != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise PllavaError(f"device {str(device)!r} is not known: {error}. One of auto, cpu, cuda, cuda:1, mps") from None
        available = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(chosen.type, 1 << 30)
        if (chosen.index or 0) >= available:
            raise PllavaError(
                f"device {str(device)!r}: torch sees {available} of this kind here. Take cpu or auto; pllava doctor says what is there"
            )
        return chosen
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """auto: bf16 on a GPU that supports it, fp16 on other GPUs, fp32 on a CPU, where fp16 is slower."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.float16 if device.type == "mps" else torch.float32
    if dtype not in DTYPES:
        raise PllavaError(f"dtype {dtype!r} is not known; one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_attention(name: str) -> None:
    """Raises PllavaError for an unknown attention, or for flash_attention_2 without its package."""
    if name not in ("sdpa", "eager", "flash_attention_2"):
        raise PllavaError(f"attn_implementation {name!r} is not known; one of sdpa, eager, flash_attention_2")
    if name == "flash_attention_2" and find_spec("flash_attn") is None:
        raise PllavaError(
            "flash_attention_2 needs the package flash-attn and a CUDA GPU: pip install flash-attn, or use sdpa (as fast for most)"
        )


def language_model_only(quantization_config: Any) -> Any:
    """A copy of the config that quantises the language model only. Tower, projector and head are small; every visual token uses them."""
    config = copy.deepcopy(quantization_config)
    if isinstance(config, dict):
        config = AutoQuantizationConfig.from_dict(config)
    field = "llm_int8_skip_modules" if hasattr(config, "llm_int8_skip_modules") else "modules_to_not_convert"
    skipped = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]  # each matches the beginning of a module's name
    setattr(config, field, sorted({*(getattr(config, field, None) or []), *skipped}))
    return config
