"""The PLLaVA model: tower -> projector and pooling -> replace placeholders -> decoder. Everything else is transformers' Llava.

model = PllavaForConditionalGeneration.from_pretrained(folder)
model.generate(input_ids=ids, attention_mask=mask, pixel_values_videos=videos)   # ids hold N placeholders for each video
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.llava.modeling_llava import (
    LlavaCausalLMOutputWithPast,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaModelOutputWithPast,
    LlavaMultiModalProjector,
)

from pllava.core.errors import PllavaError
from pllava.model.configuration import PllavaConfig
from pllava.model.pooling import AVERAGE, pooling, repeat_frames
from pllava.model.shared_prefix import SharedPrefixCache

IGNORE = -100  # label of an unsupervised position

# prefix of a published key -> prefix of ours. `save_pretrained` maps back, so saved folders have the published layout
PUBLISHED_PREFIXES = {
    "language_model.lm_head": "lm_head",
    "language_model.model": "model.language_model",
    "vision_tower.vision_model": "model.vision_tower",
    "multi_modal_projector": "model.multi_modal_projector",
}
_RENAMINGS = [WeightRenaming("^" + re.escape(theirs), ours) for theirs, ours in PUBLISHED_PREFIXES.items()]
register_checkpoint_conversion_mapping("pllava", _RENAMINGS, overwrite=True)


class PllavaProjector(LlavaMultiModalProjector):
    """linear_1, GELU, linear_2, pooling. Average pooling commutes with the affine linear_2, so it runs first, which is cheaper."""

    def forward(self, features: Tensor, config: PllavaConfig) -> Tensor:  # type: ignore[override]
        """[V, T, P, Dv] tower features of T <= num_frames frames -> [V, N, D] visual tokens."""
        hidden = self.act(self.linear_1(features))
        hidden = repeat_frames(hidden, config.num_frames, config.frame_repeat)
        pool = pooling(config.pooling_method)
        if config.pooling_method == AVERAGE:
            return self.linear_2(pool(hidden, config.patch_grid, config.visual_shape))
        tokens = pool(self.linear_2(hidden), config.patch_grid, config.visual_shape)
        if tokens.shape[1] != config.num_visual_tokens:
            raise PllavaError(
                f"pooling {config.pooling_method!r} gave {tokens.shape[1]} tokens a video, {config.num_visual_tokens} were to come "
                f"(t * h * w of pooling_shape {config.visual_shape}). Mend the pooling function"
            )
        return tokens


class PllavaModel(LlavaModel):
    config: PllavaConfig
    input_modalities = ("video", "image", "text")

    def __init__(self, config: PllavaConfig):
        super().__init__(config)
        self.multi_modal_projector = PllavaProjector(config)
        self._check_tower()
        self.post_init()

    def _check_tower(self) -> None:
        """Raises PllavaError unless the tower gives one feature for each patch of the frame's grid."""
        config, embeddings = self.config, getattr(self.vision_tower, "embeddings", None)
        strategy, kind = config.vision_feature_select_strategy, config.vision_config.model_type
        layers = getattr(getattr(self.vision_tower, "encoder", None), "layers", None)
        if layers is None or not isinstance(getattr(embeddings, "patch_embedding", None), nn.Conv2d):
            raise PllavaError(
                f"the tower, a {kind}, is not built like CLIP's or SigLIP's, with a fixed grid of patches. Choose another base"
            )
        if not -len(layers) - 1 <= config.vision_feature_layer <= len(layers):
            raise PllavaError(
                f"vision_feature_layer is {config.vision_feature_layer}, and the tower, a {kind}, has {len(layers)} layers. "
                "Mend it in config.json"
            )
        if strategy not in ("default", "full"):
            raise PllavaError(f"vision_feature_select_strategy is {strategy!r}; 'default' (no class token) or 'full' is needed")
        if strategy == "default" and embeddings is not None and not hasattr(embeddings, "class_embedding"):
            raise PllavaError(
                f"vision_feature_select_strategy 'default' drops the class token, and the tower, a {kind}, has none: "
                "the first patch would be lost. Set it to 'full' in config.json"
            )
        (height, width), tokens = config.patch_grid, getattr(embeddings, "num_positions", None)
        num_features = None if tokens is None else tokens - 1 if strategy == "default" else tokens
        if num_features is not None and num_features != height * width:
            advice = "'default' in config.json leaves the class token out" if strategy == "full" else "Mend frame_shape in config.json"
            raise PllavaError(
                f"vision_feature_select_strategy {strategy!r} reads {num_features} features a frame of the tower, a {kind}, "
                f"and the grid of a frame is {height} x {width} = {height * width} patches. {advice}"
            )

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """Frames [B, 3, H, W] -> patch features [B, P, Dv] of `vision_feature_layer`. Later layers don't run.

        `vision_feature_layer` counts hidden states as transformers does: 0 is the embedding, -1 the last layer.
        """
        tower, layer = self.vision_tower, self.config.vision_feature_layer
        hidden = tower.embeddings(pixel_values.to(tower.device, tower.dtype))
        if hasattr(tower, "pre_layrnorm"):  # CLIP has one (and this spelling), SigLIP doesn't
            hidden = tower.pre_layrnorm(hidden)
        depth = layer if layer >= 0 else len(tower.encoder.layers) + 1 + layer
        for block in tower.encoder.layers[:depth]:
            hidden = block(hidden, None)
        return hidden[:, 1:] if self.config.vision_feature_select_strategy == "default" else hidden  # "default" drops the class token

    def project(self, features: Tensor) -> Tensor:
        """Tower features [V, T, P, Dv] -> visual tokens [V, N, D]."""
        weight = self.multi_modal_projector.linear_1.weight
        return self.multi_modal_projector(features.to(weight.device, weight.dtype), self.config)

    def encode_video(self, pixel_values_videos: Tensor) -> Tensor:
        """[V, T, 3, H, W] -> visual tokens [V, N, D]. A still image is a video of T = 1: its features are computed once and repeated."""
        videos, frames = pixel_values_videos.shape[:2]
        return self.project(self.vision_features(pixel_values_videos.flatten(0, 1)).unflatten(0, (videos, frames)))

    def encode_media(
        self,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | Sequence[Tensor] | None = None,
        media_is_image: Tensor | None = None,
    ) -> list[Tensor]:
        """Visual tokens [N, D] of every video and image, in the order of their placeholders.

        Sequences hold videos of different lengths ([T, 3, H, W], or features [T, P, Dv]). Videos come before images unless
        `media_is_image` (bool, one entry for each `<image>` in reading order) says otherwise.
        """
        videos: list[Tensor] = []
        for batch, encode in ((pixel_values_videos, self.encode_video), (vision_features, self.project)):
            if batch is not None:
                videos += list(encode(batch)) if isinstance(batch, Tensor) else [encode(video[None])[0] for video in batch]
        images = [] if pixel_values is None else list(self.encode_video(pixel_values[:, None]))
        if media_is_image is None:
            return videos + images
        order = [bool(is_image) for is_image in media_is_image]
        if order.count(True) != len(images) or order.count(False) != len(videos):
            raise PllavaError(
                f"media_is_image names {order.count(True)} images and {order.count(False)} videos, "
                f"given are {len(images)} images and {len(videos)} videos"
            )
        remaining = {True: iter(images), False: iter(videos)}
        return [next(remaining[is_image]) for is_image in order]

    def embed(self, input_ids: Tensor, visual_tokens: Sequence[Tensor]) -> Tensor:
        """Token embeddings [B, S, D] with each placeholder replaced by the next visual token, in reading order."""
        placeholders = input_ids == self.config.image_token_index
        if self.config.pad_token_id is not None:  # the placeholder's embedding is untrained: a generated placeholder is read as padding
            input_ids = input_ids.masked_fill(placeholders, self.config.pad_token_id)
        embeddings = self.get_input_embeddings()(input_ids)
        if not visual_tokens:
            return embeddings
        visual = torch.cat(list(visual_tokens)).to(embeddings.device, embeddings.dtype)
        num_placeholders = int(placeholders.sum())
        if num_placeholders != len(visual):
            raise PllavaError(
                f"input_ids hold {num_placeholders} placeholders (id {self.config.image_token_index}), "
                f"but {len(visual_tokens)} videos and images give {len(visual)} visual tokens. "
                f"Expand each <image> to {self.config.num_visual_tokens}: PllavaProcessor does"
            )
        return embeddings.masked_scatter(placeholders.unsqueeze(-1), visual)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | Sequence[Tensor] | None = None,
        media_is_image: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        visual_tokens: Sequence[Tensor] = []
        if inputs_embeds is None:
            if mm_encoder_outputs:
                visual_tokens = mm_encoder_outputs["image"].pooler_output
            else:
                visual_tokens = self.encode_media(pixel_values_videos, pixel_values, vision_features, media_is_image)
            inputs_embeds = self.embed(input_ids, visual_tokens)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:  # positions count tokens, not padding
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        outputs = self.language_model(attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs)
        return LlavaModelOutputWithPast(**outputs, image_hidden_states=tuple(visual_tokens) or None)


class PllavaForConditionalGeneration(LlavaForConditionalGeneration):
    config: PllavaConfig
    config_class = PllavaConfig
    input_modalities = ("video", "image", "text")
    # LLaVA 1.6's tiling parameter, and buffers that old transformers versions stored; pllava.model.layouts logs each one it skips
    _keys_to_ignore_on_load_unexpected = [r"image_newline$", r"position_ids$", r"rotary_emb\.inv_freq$"]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig):
        if not isinstance(config, PllavaConfig):
            config = PllavaConfig.from_llava(config)
        super(LlavaForConditionalGeneration, self).__init__(config)  # Llava's __init__ would first build a LlavaModel that we replace
        self.model = PllavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        embeddings = self.get_input_embeddings()  # some language models don't name it `embed_tokens`
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """transformers' `from_pretrained`, but a missing or unexpected key raises PllavaError instead of a printed report."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        problems = [f"  {kind}: {item}" for kind, items in info.items() if items for item in sorted(items, key=str)]
        if problems:
            source = kwargs.get("pretrained_model_name_or_path", args[0] if args else None)
            raise PllavaError(
                f"{source}: the weights don't fit the config\n" + "\n".join(problems) + "\nFolders that hold LoRA are read by pllava.load"
            )
        return (model, info) if output_loading_info else model

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """Frames [B, 3, H, W] -> patch features [B, P, Dv], which the feature store keeps."""
        return self.model.vision_features(pixel_values)

    def project(self, features: Tensor) -> Tensor:
        """[V, T, P, Dv] -> visual tokens [V, N, D]."""
        return self.model.project(features)

    def encode_video(self, pixel_values_videos: Tensor) -> Tensor:
        """[V, T, 3, H, W] -> visual tokens [V, N, D], N = prod(pooling_shape)."""
        return self.model.encode_video(pixel_values_videos)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | Sequence[Tensor] | None = None,
        media_is_image: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Loss (with `labels`) and logits.

        input_ids [B, S]: every `<image>` is expanded to N placeholders. attention_mask [B, S]: 0 marks padding, left or right.
        pixel_values_videos [V, T, 3, H, W], pixel_values [I, 3, H, W] (stills), vision_features [V, T, P, Dv] (the tower's output,
        instead of pixels): see `PllavaModel.encode_media` for their order.
        labels [B, S]: -100 at unsupervised positions. The loss uses the supervised positions and does not depend on `logits_to_keep`.
        Training passes logits_to_keep=1, so the [B, S, vocabulary] logits are never made. 0 keeps all logits.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values_videos=pixel_values_videos,
            pixel_values=pixel_values,
            vision_features=vision_features,
            media_is_image=media_is_image,
            mm_encoder_outputs=mm_encoder_outputs,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        loss = None
        if labels is not None:
            targets = labels[:, 1:].to(hidden.device)
            supervised = targets != IGNORE
            if attention_mask is not None and attention_mask.ndim == 2:
                supervised &= attention_mask[:, 1:].to(hidden.device).bool()
            loss = self.loss_function(
                logits=self.lm_head(hidden[:, :-1][supervised]),
                labels=None,
                shift_labels=targets[supervised],
                vocab_size=self.config.text_config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        logits = self.lm_head(slice_logits_to_keep(hidden, logits_to_keep))
        if isinstance(past_key_values, SharedPrefixCache):
            logits = past_key_values.unpack(logits)
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        """transformers' inputs; with a SharedPrefixCache, one packed sequence for each video."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, SharedPrefixCache):
            return super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        new = kwargs.get("next_sequence_length") or input_ids.shape[1]
        packed = cache.pack(input_ids[:, -new:], kwargs.get("attention_mask"))
        return packed | {"past_key_values": cache, "use_cache": True}

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Encode the media once, before prefill, so that all beams and returned sequences share the visual tokens."""
        names = ("pixel_values_videos", "pixel_values", "vision_features", "media_is_image")
        visual_tokens = self.model.encode_media(**{name: model_kwargs.pop(name, None) for name in names})
        if visual_tokens:
            model_kwargs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=visual_tokens)}
        return model_kwargs
