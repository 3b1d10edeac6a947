"""Pixels, ids and files of the processor are those of the published one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pllava.core.errors import PllavaError
from pllava.model.processing import PllavaProcessor

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def at(processor: PllavaProcessor, resolution: int) -> PllavaProcessor:
    """The processor of a model with another image size."""
    side = {"height": resolution, "width": resolution}
    image_processor = type(processor.image_processor)(size={"shortest_edge": resolution}, crop_size=side)
    return PllavaProcessor(image_processor, processor.tokenizer, processor.num_frames, processor.pooling_shape)


@pytest.fixture(scope="module")
def processor(tiny_base_dir: Path) -> PllavaProcessor:
    return PllavaProcessor.from_pretrained(tiny_base_dir)


def test_recorded_pixels(reference: Path, processor: PllavaProcessor):
    recorded = json.loads((reference / "preproc.json").read_text())
    tensors = load_file(reference / "preproc.safetensors")
    for case in recorded["cases"]:
        clips = [np.stack([np.asarray(Image.open(reference / name).convert("RGB")) for name in names]) for names in case["videos"]]
        pixels = np.concatenate([clip.numpy() for clip in at(processor, case["res"]).preprocess_videos(clips)])
        assert pixels.dtype == np.float32
        assert list(pixels.shape) == case["out_shape"]
        levels = np.rint((pixels.astype(float) * STD + MEAN) * 255).astype(np.uint8)
        assert hashlib.sha256(np.ascontiguousarray(levels).tobytes()).hexdigest() == case["u8_sha256"], case["name"]
        if (strided := tensors.get(f"{case['name']}/f32_strided")) is not None:
            np.testing.assert_array_equal(pixels[:, :, ::8, ::8], strided)


def test_recorded_ids(reference: Path, processor: PllavaProcessor):
    for case in json.loads((reference / "tokenizer_cases.json").read_text()):
        assert processor.tokenizer(case["text"])["input_ids"] == case["ids_special"]
        assert processor.tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids_plain"]
        assert processor.tokenizer.decode(case["ids_special"], skip_special_tokens=True) == case["decoded_skip_special"]


def test_the_placeholder_becomes_one_id_a_visual_token(processor: PllavaProcessor):
    assert processor.num_visual_tokens == 16  # (4, 2, 2)
    batch = processor.tokenize(["USER: <image>\nWhat?", "hello"], padding_side="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert (ids == processor.image_token_id).sum(1).tolist() == [16, 0]
    assert ids[0].tolist() == processor.tokenizer(processor.expand("USER: <image>\nWhat?"))["input_ids"]
    assert mask[1].tolist() == sorted(mask[1].tolist())
    assert mask[0].all()
    right = processor.tokenize(["USER: <image>\nWhat?", "hello"], padding_side="right")
    assert right["input_ids"][1][: mask[1].sum()].tolist() == ids[1][-mask[1].sum() :].tolist()


def test_decoding_what_is_new_keeps_its_first_space(processor: PllavaProcessor):
    ids = processor.tokenizer("Best option:( The man")["input_ids"]
    prompt = processor.tokenizer("Best option:(")["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert processor.decode_new(prompt, ids[len(prompt) :]) == " The man"


def test_pixels_of_a_clip_do_not_depend_on_its_batch(processor: PllavaProcessor):
    wide, tall = (np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8) for shape in ((4, 40, 90, 3), (4, 90, 40, 3)))
    together = processor(videos=[wide, tall])["pixel_values_videos"]
    assert (together[0] == processor.preprocess_video(wide)).all()
    assert (together[1] == processor.preprocess_video(tall)).all()


def test_call(processor: PllavaProcessor):
    short, whole = np.zeros((3, 30, 30, 3), np.uint8), np.zeros((4, 30, 30, 3), np.uint8)
    batch = processor(text=["<image>a", "<image>b c"], videos=[short, whole], images=Image.new("RGB", (50, 40)))
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 56, 56)
    assert batch["pixel_values"].shape == (1, 3, 56, 56)
    assert batch["input_ids"].shape == batch["attention_mask"].shape


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)])
def test_what_is_no_clip(processor: PllavaProcessor, frames: Any):
    with pytest.raises(PllavaError, match=r"uint8 \[T, H, W, 3\] is needed"):
        processor.preprocess_video(frames)


def test_save_and_load(processor: PllavaProcessor, tiny_base_dir: Path, tmp_path: Path):
    from transformers import AutoProcessor

    import pllava  # noqa: F401  (registers the class)

    frames = np.random.RandomState(1).randint(0, 256, (4, 50, 70, 3), dtype=np.uint8)
    processor.save_pretrained(tmp_path)
    for folder in (tiny_base_dir, tmp_path):
        again = AutoProcessor.from_pretrained(folder)
        assert isinstance(again, PllavaProcessor)
        assert again.pooling_shape == (4, 2, 2)
        assert again.num_frames == 4
        assert (again.preprocess_video(frames) == processor.preprocess_video(frames)).all()
        assert again.tokenizer("a</s>  USER:")["input_ids"] == processor.tokenizer("a</s>  USER:")["input_ids"]
