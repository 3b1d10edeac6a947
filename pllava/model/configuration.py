"""`PllavaConfig`: a Llava config plus the shape of the pooled video.

Reads `config.json` of model_type `llava` (published PLLaVA, LLaVA 1.5, LLaVA-Interleave ...), `llava_next` (LLaVA 1.6),
`llava_onevision` and `pllava` (ours).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig, LlavaOnevisionConfig, PreTrainedConfig

from pllava.core.errors import PllavaError
from pllava.model.pooling import pooling

# defaults for a LLaVA base folder, which lacks these settings: the values of the released PLLaVA models
NUM_FRAMES = 16
POOLING_SHAPE = (16, 12, 12)

# keys about video. An adapter's values win over its base's
VIDEO_KEYS = ("num_frames", "pooling_shape", "pooling_method", "use_pooling", "frame_repeat")

# settings of the image tiling of LLaVA 1.6 and OneVision, and OneVision's own token of a video; PLLaVA feeds whole frames instead
TILING = ("image_grid_pinpoints", "use_image_newline_parameter", "vision_aspect_ratio", "video_token_index", "video_token_id")

# model_type of a base, or of its tower -> why PLLaVA can't pool it
NO_BASES = {
    r"pixtral.*|mistral3": "Pixtral's tower has no fixed grid of patches: frames of another size give other grids",
    r"vipllava": "VIP-LLaVA joins the features of several layers of its tower, and PLLaVA reads one layer",
    r"idefics.*|smolvlm.*": "Idefics and SmolVLM shuffle or resample the patches before their projector, which is not LLaVA's",
    r"qwen\d*(_\d+)?_?(vl|omni).*|qwen": "Qwen-VL's tower has no fixed grid of patches, and merges patches before the language model",
    r"siglip2.*": "SigLIP 2's NaFlex tower has no fixed grid of patches: frames of another size give other grids",
}
MAX_LAYERS = 1000  # no model has as many; a config that asks for more would be built for hours
LAYERS = re.compile(r"(num_\w*layers|n_layers?|\w*depths?|num_\w*blocks)")
# keys by which a config.json would choose code that runs here; the caller chooses it
CODE_KEYS = re.compile(r"_.*|attn_implementation|experts_implementation|use_kernels|auto_map")


@strict
class PllavaConfig(LlavaConfig):
    """Llava's config with the video keys of the published checkpoints.

    num_frames: frames of one video; the frames of a shorter video are repeated up to this number.
    pooling_shape: (T, H, W) after adaptive average pooling; its product is the number of visual tokens.
    frame_shape: (H, W) patches of one frame; derived from the vision config when absent.
    pooling_method: "avg", or an entry point of `pllava.poolings`.
    use_pooling: False keeps every patch of every frame (the paper's "direct" baseline).
    frame_repeat: how a short video is stretched to num_frames; "published": each frame int(n / t) + 1 times, cut at n;
        "even": spread over the whole length.
    pad_token_id: a placeholder without a video gets the embedding of this token. LLaVA 1.6 folders lack it; `pllava.load` then takes
        the tokenizer's.
    """

    model_type = "pllava"

    num_frames: int = NUM_FRAMES
    pooling_shape: tuple[int, ...] | list[int] = POOLING_SHAPE
    frame_shape: tuple[int, ...] | list[int] | None = None
    pooling_method: str = "avg"
    use_pooling: bool = True
    frame_repeat: Literal["published", "even"] = "published"
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.frame_shape = self.patch_grid
        self.pooling_shape = tuple(self.pooling_shape)
        if type(self.num_frames) is not int or self.num_frames < 1:
            raise PllavaError(f"num_frames is {self.num_frames!r}; a whole number of 1 or more is needed, e.g. {NUM_FRAMES}")
        if len(self.pooling_shape) != 3 or min(self.pooling_shape) < 1:
            raise PllavaError(f"pooling_shape is {self.pooling_shape}; three positive numbers (T, H, W) are needed, e.g. {POOLING_SHAPE}")
        if not isinstance(self.vision_feature_layer, int):
            raise PllavaError(f"vision_feature_layer is {self.vision_feature_layer}; PLLaVA reads one layer, -2 in every released model")
        pooling(self.pooling_method)  # raises now for an unknown method, not at the first clip

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(H, W) patches of one frame."""
        side = self.vision_config.image_size // self.vision_config.patch_size  # type: ignore[union-attr]
        height, width = self.frame_shape or (side, side)
        return height, width

    @property
    def visual_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of the visual tokens of one video."""
        (height, width), (t, h, w) = self.patch_grid, self.pooling_shape
        return (t, h, w) if self.use_pooling else (self.num_frames, height, width)

    @property
    def num_visual_tokens(self) -> int:
        """Number of placeholder tokens that one `<image>` of a prompt expands to."""
        return prod(self.visual_shape)

    @classmethod
    def from_llava(cls, config: PreTrainedConfig | dict[str, Any], **changes: Any) -> PllavaConfig:
        """A PllavaConfig from a Llava, LLaVA-Next or PLLaVA config, which is an object or the dict of its config.json.

        changes: values that replace the config's; None changes nothing. Raises PllavaError for another model_type.
        """
        values = config.to_dict() if isinstance(config, PreTrainedConfig) else without_code_keys(config)
        kind, vision = values.get("model_type"), values.get("vision_config")
        tower = vision.get("model_type") if isinstance(vision, Mapping) else None
        for name in (kind, tower):
            if reason := next((NO_BASES[pattern] for pattern in NO_BASES if re.fullmatch(pattern, str(name))), None):
                raise PllavaError(f"config.json has model_type {name!r}, which is no base for PLLaVA: {reason}. Choose another base")
        if kind not in ("llava", "llava_next", "llava_onevision", "pllava"):
            raise PllavaError(
                f"config.json has model_type {kind!r}; a PLLaVA base is 'llava', 'llava_next', 'llava_onevision' or 'pllava'. "
                "To join a CLIP-like tower and a language model into a base: pllava compose"
            )
        for key, count in layer_counts(values):
            if count > MAX_LAYERS:
                raise PllavaError(f"config.json has {key} {count}, and no model has more than {MAX_LAYERS}. Fetch the folder again")
        if values.get("quantization_config"):
            method = dict(values["quantization_config"]).get("quant_method")
            raise PllavaError(
                f"config.json says that the weights are quantised ({method}); a base has plain weights. "
                "Take the model they were made from; model.quantization packs it at load"
            )
        if kind == "llava_onevision":  # its file leaves out what equals its own defaults, which are not Llava's
            values = LlavaOnevisionConfig.from_dict(values).to_dict()
        values = {key: value for key, value in values.items() if key not in ("model_type", *TILING)}
        return cls.from_dict(values | {key: value for key, value in changes.items() if value is not None})


def layer_counts(values: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, number) of every number of layers in a config's values, also those of its parts."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if type(value) is int and LAYERS.fullmatch(str(key)):
                yield f"{prefix}{key}", value
            yield from layer_counts(value, f"{prefix}{key}.")


def without_code_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config.json, also of its parts, without keys that choose code: attention, kernels, remote classes."""
    return {
        key: without_code_keys(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not CODE_KEYS.fullmatch(str(key))
    }
