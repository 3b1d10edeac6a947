"""The feature store holds the tower's output, the same in every run, and says when it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pllava
from pllava.data.features import STORE, FeatureStore, encode_clip, features
from pllava.data.manifest import PREPARED, read_manifest
from pllava.errors import PllavaError
from pllava.files import sha256_file
from pllava.params import Params

Project = Callable[..., Params]


def hashes() -> dict[str, str]:
    return {file.name: sha256_file(file) for file in STORE.iterdir()}


def test_store_holds_what_the_tower_gives(prepared: Project) -> None:
    params = prepared()
    first = hashes()
    assert set(first) == {"index.json", "features-00000.safetensors"}

    row = read_manifest(PREPARED / "validation.parquet")[1]
    model, processor = pllava.load(params.model.base, num_frames=4, dtype="float32", device="cpu")
    pixels = processor.preprocess_video(pllava.read_video(row.media, 4, "middle").frames)
    assert torch.equal(FeatureStore(params).get(row), model.vision_features(pixels))

    assert features(prepared(data={"workers": 2})) == STORE
    assert hashes() == first

    with pytest.raises(PllavaError, match=r"other settings \(num_frames\)"):
        FeatureStore(prepared(model={"num_frames": 2, "pooling_shape": (2, 2, 2)}))
    unknown = row.__class__(**{**row.__dict__, "media_sha256": "0" * 64})
    with pytest.raises(PllavaError, match="has no features of"):
        FeatureStore(params).get(unknown)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_does_not_change_the_numbers(dtype: torch.dtype) -> None:
    """The store is written by one thread, training without it runs the tower with all it has."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=2, num_attention_heads=6, image_size=168, patch_size=14
    )
    tower = CLIPVisionModel(config).to(dtype).eval()

    class Model:
        def vision_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return tower(pixels.to(dtype)).last_hidden_state

    clip = torch.randn(6, 3, 168, 168)
    one, two = (encode_clip(Model(), clip, "float32", threads) for threads in (1, 2))
    assert torch.equal(one, two)


def test_switched_off_it_writes_an_index_that_says_so(project: Project) -> None:
    params = project(features={"enabled": False})
    assert features(params) == STORE
    assert json.loads((STORE / "index.json").read_text()) == {"enabled": False}
    with pytest.raises(PllavaError, match=r"params\.yaml now says true"):
        FeatureStore(project())


def test_random_frames_cannot_be_stored(project: Project) -> None:
    with pytest.raises(PllavaError, match="takes other frames every epoch"):
        features(project(train={"sampling": "rand"}))


def test_without_manifest_the_next_command_is_named(project: Project) -> None:
    with pytest.raises(PllavaError, match="Write it: pllava prepare"):
        features(project())
    assert not Path(STORE).exists()
