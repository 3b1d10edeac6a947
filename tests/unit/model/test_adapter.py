"""LoRA and projector: what is trained, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pllava
from pllava.core.errors import PllavaError
from pllava.core.params import Lora
from pllava.model.adapter import add_lora, save_adapter, verify_adapter

LORA = Lora(r=4, alpha=8, dropout=0.0)


@pytest.fixture
def config(tiny_base_dir: Path) -> dict[str, Any]:
    return {"base": str(tiny_base_dir), "model": {"num_frames": 4, "pooling_shape": [2, 2, 2], "template": "tiny"}, "seed": 3}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    video = torch.randn(1, 4, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[1, *[600] * model.config.num_visual_tokens, 5, 9]])
    return model(input_ids=ids, pixel_values_videos=video).logits


def perturb(model: Any) -> None:
    """As if trained: B is zero at first."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_lora_and_projector_are_trained_and_nothing_else(load_tiny: Any) -> None:
    plain = load_tiny("tiny56_base")
    model = add_lora(load_tiny("tiny56_base", fresh=True), LORA, seed=3)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 3 * 2 * 2 + 4  # layers x (q, v) x (A, B), two linear layers of the projector
    assert all(("language_model" in name and "lora_" in name) or "multi_modal_projector" in name for name in trained)
    assert logits(model.eval()).equal(logits(plain))  # B is zero: no change yet


def test_equal_seeds_give_equal_adapters_and_leave_the_random_state_alone(load_tiny: Any) -> None:
    plain = [load_tiny("tiny56_base", fresh=True) for _ in range(3)]
    before = torch.random.get_rng_state()
    models = [add_lora(model, LORA, seed=seed) for model, seed in zip(plain, (3, 3, 4), strict=True)]
    assert torch.random.get_rng_state().equal(before)
    a, b, c = (next(p for n, p in model.named_parameters() if "lora_A" in n) for model in models)
    assert a.equal(b)
    assert not a.equal(c)


def test_saved_and_loaded_it_is_the_same_model(load_tiny: Any, config: dict[str, Any], tmp_path: Path) -> None:
    model = add_lora(load_tiny("tiny56_base", fresh=True, pooling_shape=(2, 2, 2)), LORA, seed=3)
    perturb(model)
    manifest = save_adapter(model, tmp_path / "a", config)
    save_adapter(model, tmp_path / "b", config)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.yaml", "manifest.json"} <= names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert verify_adapter(tmp_path / "a") == manifest
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text()) == config

    loaded, processor = pllava.load(tmp_path / "a", dtype="float32", device="cpu")
    assert processor.num_visual_tokens == 8  # the adapter's pooling, not the base's
    assert logits(loaded).equal(logits(model.eval()))
    assert hasattr(loaded, "generate")
    assert loaded.encode_video(torch.zeros(1, 4, 3, 56, 56)).shape == (1, 8, 64)


def test_a_changed_or_half_written_folder_is_refused(load_tiny: Any, config: dict[str, Any], tmp_path: Path) -> None:
    save_adapter(add_lora(load_tiny("tiny56_base", fresh=True), LORA, seed=3), tmp_path / "a", config)
    (tmp_path / "a" / "config.yaml").write_text("model: {}\n")
    with pytest.raises(PllavaError, match=r"changed: config\.yaml"):
        verify_adapter(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(PllavaError, match="not whole"):
        verify_adapter(tmp_path / "a")


def test_layers_that_are_not_there_are_refused(load_tiny: Any) -> None:
    """One of them, too: adapting the others alone would be another training."""
    for wrong in ("qq_proj", "mlp", "embed_tokens", "linear_1"):
        with pytest.raises(PllavaError, match=rf"target_modules \['{wrong}'\] are no linear layers.*q_proj"):
            add_lora(load_tiny("tiny56_base", fresh=True), Lora(target_modules=["v_proj", wrong]), seed=3)
