"""`pllava compose TOWER LANGUAGE OUT` makes a base from a CLIP-like vision tower and a causal language model.

The projector is new and random. Train it (LLaVA's first stage) before you expect answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir
from pllava.model.configuration import NUM_FRAMES, POOLING_SHAPE, PllavaConfig
from pllava.model.layouts import check_target, resolve
from pllava.model.load import choose_dtype
from pllava.model.modeling import PllavaForConditionalGeneration
from pllava.model.processing import IMAGE_TOKEN, PllavaProcessor, image_processor_of


def compose(
    tower: str,
    language: str,
    out: str | Path,
    num_frames: int = NUM_FRAMES,
    pooling_shape: tuple[int, int, int] = POOLING_SHAPE,
    seed: int = 0,
    dtype: str | torch.dtype = "float32",
) -> Path:
    """Write a base folder in the published layout, with its processor. Returns the folder. Tower and language model keep their weights.

    tower, language: folders or hub ids; a CLIP checkpoint may hold its text model too. `<image>` and, if missing, a pad token
    are added to the tokenizer and the embeddings. Raises PllavaError if the parts don't fit PLLaVA.
    """
    check_target(Path(out), tower, language)
    dtype = choose_dtype(dtype, torch.device("cpu"))
    vision = _tower(tower, dtype)
    language_folder = resolve(language)
    decoder = AutoModelForCausalLM.from_pretrained(language_folder, dtype=dtype)
    if decoder.get_output_embeddings().bias is not None:
        raise PllavaError(f"{language}: its output layer has a bias, Llava's has none; choose a language model of the Llama kind")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(language_folder)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if len(tokenizer) > decoder.get_input_embeddings().num_embeddings:
        decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    has_class_token = hasattr(vision.embeddings, "class_embedding")
    config = PllavaConfig(
        vision_config=vision.config,
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        pad_token_id=tokenizer.pad_token_id,
        vision_feature_select_strategy="default" if has_class_token else "full",
        num_frames=num_frames,
        pooling_shape=pooling_shape,
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PllavaForConditionalGeneration(config).to(dtype)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(decoder.base_model.state_dict())
    model.lm_head.load_state_dict(decoder.get_output_embeddings().state_dict())
    model.generation_config = decoder.generation_config
    _check_same(model, decoder, language)

    images = _image_processor(resolve(tower), vision.config.image_size, has_class_token)
    with atomic_dir(out) as partial:
        model.save_pretrained(partial)
        PllavaProcessor(images, tokenizer, num_frames, pooling_shape).save_pretrained(partial)
    return Path(out)


@torch.no_grad()
def _check_same(model: PllavaForConditionalGeneration, decoder: Any, language: str) -> None:
    """Raises PllavaError unless model and decoder give equal logits for text. Some decoders scale or cap logits after the output layer."""
    ids = torch.arange(1, 9)[None]
    theirs = decoder.eval()(input_ids=ids).logits.float()
    try:
        ours = model.eval()(input_ids=ids).logits.float()
    except (TypeError, ValueError, NotImplementedError) as error:
        raise PllavaError(f"{language}: a {type(decoder).__name__} can't be called as Llava calls its language model: {error}") from None
    difference = (ours - theirs).abs().max()
    if difference > 0.02 * theirs.abs().max():  # tolerance: 16-bit sums depend on the order of the terms
        raise PllavaError(
            f"{language}: inside Llava the logits of a {type(decoder).__name__} differ by {difference:.2g}: it does more than multiply "
            "by its output layer (scaling, soft capping). Choose a language model of the Llama, Mistral or Qwen kind"
        )


def _image_processor(folder: Path, side: int, has_class_token: bool) -> PilBackend:
    """The tower's own image processor; in a folder without one, CLIP's for a tower with a class token, else SigLIP's."""
    if any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        return image_processor_of(folder)
    square = {"height": side, "width": side}
    if has_class_token:
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
    return SiglipImageProcessorPil(size=square)


def _tower(name: str, dtype: torch.dtype) -> Any:
    """The vision model of a folder or hub id. Raises PllavaError if it is not built like CLIP's."""
    folder = resolve(name)
    config = AutoConfig.from_pretrained(folder)
    vision = AutoModel.from_pretrained(folder, config=getattr(config, "vision_config", config), dtype=dtype)
    if not hasattr(vision, "embeddings") or not hasattr(getattr(vision, "encoder", None), "layers"):
        raise PllavaError(
            f"{name}: {type(vision).__name__} has no embeddings and encoder.layers; a tower like CLIP's or SigLIP's is needed"
        )
    return vision
