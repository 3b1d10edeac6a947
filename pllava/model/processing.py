"""`PllavaProcessor` turns frames into pixels, and prompts into token ids with expanded placeholders.

processor = PllavaProcessor.from_pretrained("ermu2001/pllava-7b")
batch = processor(text=[prompt], videos=[frames])   # input_ids, attention_mask, pixel_values_videos [V, T, 3, H, W]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, BatchFeature, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pllava.core.errors import PllavaError
from pllava.model.configuration import NUM_FRAMES, POOLING_SHAPE, PllavaConfig
from pllava.video.aspect import tower_pictures
from pllava.video.sampling import repeat_indices

IMAGE_TOKEN = "<image>"
# image processors of bases that make one picture of a frame; the LLaVA-Next and OneVision kinds make tiles of stills beside it
KINDS: tuple[str, ...] = ("CLIPImageProcessor", "CLIPFeatureExtractor", "SiglipImageProcessor", "ViTImageProcessor")
KINDS += ("LlavaImageProcessor", "LlavaNextImageProcessor", "LlavaOnevisionImageProcessor")
PIXELS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb")


class PllavaProcessor(ProcessorMixin):
    """The base's own image processor (the PIL one: tensor bicubic differs by 1-3 levels) and a fast tokenizer.

    A CLIP-like image processor scales the short side and crops the centre. A SigLIP-like one squashes the whole frame to the tower's size.
    num_frames, pooling_shape: the model's. The product of pooling_shape is the number of placeholders of one video.
    shortest_edge, longest_edge, center_pad: keys of the published processor_config.json; kept, but unused, as in the published code.
    """

    def __init__(
        self,
        image_processor: PilBackend,
        tokenizer: PreTrainedTokenizerFast,
        num_frames: int = NUM_FRAMES,
        pooling_shape: Sequence[int] = POOLING_SHAPE,
        shortest_edge: int = 336,
        longest_edge: int = 762,
        center_pad: bool = False,
        chat_template: Any = None,
    ) -> None:
        self.num_frames = num_frames
        self.pooling_shape = tuple(pooling_shape)
        self.shortest_edge, self.longest_edge, self.center_pad = shortest_edge, longest_edge, center_pad
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise PllavaError(
                f"{tokenizer.name_or_path or 'the tokenizer'}: no token {IMAGE_TOKEN!r} in its vocabulary; is this a Llava folder?"
            )

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        # Not the Auto classes: AutoTokenizer rebuilds a Llama tokenizer and loses space markers, AutoImageProcessor may not take PIL.
        kwargs.pop("trust_remote_code", None)
        return [
            image_processor_of(pretrained_model_name_or_path, **kwargs),
            PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Adds num_frames and pooling_shape from config.json, if processor_config.json lacks them, as the published one does."""
        values, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "pooling_shape" not in values:
            hub = {
                key: kwargs[key]
                for key in ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
                if key in kwargs
            }
            config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
            if config:
                pllava = PllavaConfig.from_llava(config)
                values |= {"num_frames": pllava.num_frames, "pooling_shape": list(pllava.visual_shape)}
        known = ("num_frames", "pooling_shape", "shortest_edge", "longest_edge", "center_pad", "chat_template")
        return {key: value for key, value in values.items() if key in known}, rest

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        self.image_processor.save_pretrained(save_directory)  # preprocessor_config.json, which the published code reads
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @property
    def num_visual_tokens(self) -> int:
        """Number of placeholders that one `<image>` expands to."""
        return prod(self.pooling_shape)

    @property
    def resolution(self) -> int:
        """Side of the square that the tower sees, in pixels."""
        return self.crop[1]

    def preprocess_video(self, frames: np.ndarray | Sequence[Image.Image]) -> torch.Tensor:
        """uint8 [T, H, W, 3] (or PIL images of one size) -> float32 [T, 3, h, w], normalised as the tower was trained.

        CLIP: resizes twice (bicubic, uint8: to the working size, then the shortest edge) and crops the centre. SigLIP: resizes once,
        to the size of the picture. T stays: the model repeats frames.
        """
        return self.preprocess_videos([frames])[0]

    def preprocess_videos(self, videos: Sequence[np.ndarray | Sequence[Image.Image]]) -> list[torch.Tensor]:
        """Pixels of several clips of ONE sample. As published, a CLIP-like processor gives all the least stretched aspect ratio.

        Call `preprocess_video` on each clip of a batch instead: the pixels of a sample must not depend on other samples.
        """
        threads = torch.get_num_threads()
        clips = [_as_arrays(frames) for frames in videos]
        if self.squashes:
            clips = [_squashed(clip, self.crop, self.image_processor.resample) for clip in clips]
        else:
            clips = tower_pictures(clips, self.short_side, self.crop, threads)
        table = self._pixel_values()
        return [_looked_up(table, clip, threads) for clip in clips]

    @property
    def squashes(self) -> bool:
        """Whether the whole frame is resized to the picture, as SigLIP's processor does. Else the short side is, and the rest cropped."""
        return "shortest_edge" not in dict(self.image_processor.size)

    @property
    def short_side(self) -> int:
        """Length of a frame's short side after the second resize, in pixels."""
        return min(self.crop) if self.squashes else int(self.image_processor.size["shortest_edge"])

    @property
    def crop(self) -> tuple[int, int]:
        """Width and height of the picture that the tower sees, in pixels."""
        size = self.image_processor.size if self.squashes else self.image_processor.crop_size
        return int(size["width"]), int(size["height"])

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """(short side, width, height) to which `pllava.video.readers` may already resize frames, so that this processor changes nothing.

        None: the readers must not resize.
        """
        return (self.short_side, *self.crop) if not self.squashes and self.crop == (self.short_side, self.short_side) else None

    def _pixel_values(self) -> np.ndarray:
        """float32 [3, 256]: the normalised value of each uint8 level of each channel, from the library's image processor."""
        levels: np.ndarray = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, -1)
        made = self.image_processor([Image.fromarray(levels)], do_resize=False, do_center_crop=False, return_tensors="np")["pixel_values"]
        return np.asarray(made[0]).reshape(3, 256)

    def expand(self, prompt: str) -> str:
        """The prompt with each `<image>` repeated `num_visual_tokens` times."""
        return prompt.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.num_visual_tokens)

    def tokenize(self, prompts: str | list[str], padding_side: str = "left", add_special_tokens: bool = True) -> BatchFeature:
        """input_ids and attention_mask, int64 [B, L], padded on `padding_side`; each `<image>` becomes `num_visual_tokens` ids."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [self.expand_ids(self.tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]) for prompt in prompts]
        return self.pad(rows, padding_side)

    def expand_ids(self, ids: Sequence[int]) -> list[int]:
        """Token ids with each placeholder repeated `num_visual_tokens` times."""
        return [i for token in ids for i in ([token] * self.num_visual_tokens if token == self.image_token_id else [token])]

    def decode_new(self, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> str:
        """The text of the generated ids. Decoded alone they could lose a leading space. `prompt_ids`: the prompt's ids, all or the last."""
        before = self.tokenizer.decode(prompt_ids, skip_special_tokens=True)
        whole = self.tokenizer.decode([*prompt_ids, *new_ids], skip_special_tokens=True)
        if whole.startswith(before):
            return whole[len(before) :]
        return self.tokenizer.decode(new_ids, skip_special_tokens=True)  # the prompt ends inside a character

    def pad(self, rows: Sequence[Sequence[int]], padding_side: str = "left") -> BatchFeature:
        """input_ids and attention_mask, int64 [B, L], of rows of ids. Raises PllavaError if padding is needed and no pad token exists."""
        length = max(len(row) for row in rows)
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            if any(len(row) < length for row in rows):
                raise PllavaError(f"{self.tokenizer.name_or_path}: the tokenizer has no pad token, which prompts of unequal length need")
            pad_id = 0
        input_ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            columns = slice(length - len(row), None) if padding_side == "left" else slice(len(row))
            input_ids[i, columns] = torch.tensor(row, dtype=torch.int64)
            attention_mask[i, columns] = 1
        return BatchFeature({"input_ids": input_ids, "attention_mask": attention_mask})

    def __call__(  # type: ignore[override]
        self,
        text: str | list[str] | None = None,
        videos: Any = None,
        images: Any = None,
        padding_side: str = "left",
    ) -> BatchFeature:
        """The inputs of the model.

        text: prompts with one `<image>` for each video or image. videos: one clip or a list of clips, uint8 [T, H, W, 3] each;
        frames are repeated up to `num_frames` if lengths differ. images: one or a list of PIL images or uint8 [H, W, 3] arrays.
        """
        batch: dict[str, Any] = {}
        if text is not None:
            batch |= self.tokenize(text, padding_side)
        if videos is not None:
            clips = [self.preprocess_video(video) for video in _as_list(videos, ndim=4)]
            if len({len(clip) for clip in clips}) > 1:
                clips = [clip[repeat_indices(max(self.num_frames, len(clip)), len(clip))] for clip in clips]
            batch["pixel_values_videos"] = torch.stack(clips)
        if images is not None:
            batch["pixel_values"] = torch.cat([self.preprocess_video(np.asarray(image)[None]) for image in _as_list(images, ndim=3)])
        return BatchFeature(batch)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values_videos", "pixel_values"]


def image_processor_of(name: Any, **kwargs: Any) -> PilBackend:
    """The PIL image processor of a folder or hub id: CLIP's or SigLIP's class with the values of the folder's own class.

    Raises PllavaError for an image processor of another kind.
    """
    values, _ = CLIPImageProcessorPil.get_image_processor_dict(name, **kwargs)
    kind = values.get("image_processor_type") or values.get("feature_extractor_type")
    base = re.sub("(Fast|Pil)$", "", str(kind or ("CLIPImageProcessor" if "crop_size" in values else "SiglipImageProcessor")))
    if base not in KINDS:
        raise PllavaError(f"{name}: a {kind} makes its pictures, which is not known here. Known are {', '.join(KINDS)}")
    own = getattr(transformers, base.replace("FeatureExtractor", "ImageProcessor") + "Pil").from_dict(values)
    if base == "LlavaImageProcessor" and own.do_pad:
        raise PllavaError(f"{name}: its image processor pads frames to squares (do_pad), which is not done here. Set it to false")
    if isinstance(own, CLIPImageProcessorPil) and "shortest_edge" in dict(own.size):
        return own
    pixels = {key: getattr(own, key) for key in PIXELS} | {"size": dict(own.size)}
    if "shortest_edge" not in pixels["size"]:
        return SiglipImageProcessorPil(**pixels)
    return CLIPImageProcessorPil(**pixels, do_center_crop=own.do_center_crop, crop_size=dict(own.crop_size or {}))


def _squashed(clip: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, h, w, 3], each frame resized by Pillow to `size` (width, height)."""
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling(resample))) for frame in clip])


def _as_list(media: Any, ndim: int) -> list[Any]:
    """A list of the media. `ndim` is the number of dimensions of one array; an array with one more dimension holds several."""
    if isinstance(media, Image.Image):
        return [media]
    if hasattr(media, "ndim"):
        return [media] if media.ndim == ndim else list(media)
    return list(media)


def _as_arrays(frames: np.ndarray | Sequence[Image.Image]) -> np.ndarray:
    """uint8 [T, H, W, 3]. Raises PllavaError for frames of another type or of several sizes."""
    if len(frames) and isinstance(frames[0], Image.Image):
        if len({frame.size for frame in frames}) > 1:
            raise PllavaError(f"the frames of a clip have several sizes: {sorted({frame.size for frame in frames})}")
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or not array.size:
        raise PllavaError(f"frames are {array.dtype} {list(array.shape)}; uint8 [T, H, W, 3] is needed (pllava.read_video(path).frames)")
    return array


def _looked_up(table: np.ndarray, pictures: np.ndarray, threads: int) -> torch.Tensor:
    """Pixel values float32 [T, 3, h, w] of uint8 pictures [T, h, w, 3], from the table [3, 256] of levels."""
    num_frames, height, width, channels = pictures.shape
    pixels = np.empty((num_frames, channels, height, width), table.dtype)

    def look_up(number: int) -> None:
        for channel in range(channels):  # by channel, because numpy converts each index to 8 bytes. mode="clip" skips a check of the range
            np.take(table[channel], pictures[number, ..., channel], out=pixels[number, channel], mode="clip")

    if threads > 1 and num_frames > 1:
        with ThreadPoolExecutor(min(threads, num_frames)) as pool:
            list(pool.map(look_up, range(num_frames)))
    else:
        for number in range(num_frames):
            look_up(number)
    return torch.from_numpy(pixels)


AutoProcessor.register(PllavaConfig, PllavaProcessor, exist_ok=True)
