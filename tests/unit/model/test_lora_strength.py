"""One strength of LoRA for every door: `lora_alpha` at load, set later, read back, put back."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_adapters import KINDS, peft_adapter, peft_model
from peft import PeftModel
from torch import Tensor

import pllava
from pllava.core.errors import PllavaError
from pllava.model.adapter import get_lora_alpha, save_adapter, set_lora_alpha


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> Path:
    return peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter", **KINDS[kind])


@pytest.fixture
def load(tiny_base_dir: Path, folder: Path) -> Callable[..., Any]:
    return lambda **settings: pllava.load(tiny_base_dir, adapter=folder, dtype="float32", device="cpu", **settings)[0]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    video = torch.randn(1, 4, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    return model(input_ids=torch.tensor([[1, *[600] * 16, 5, 9, 200]]), pixel_values_videos=video).logits


def by_hand(load_tiny: Any, tiny_base_dir: Path, folder: Path, alpha: float, target: Path) -> Any:
    """peft alone on a config that was rewritten: `lora_alpha` replaced, the pattern in proportion."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    config["alpha_pattern"] = {key: value * alpha / config["lora_alpha"] for key, value in config["alpha_pattern"].items()}
    (target / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
    return PeftModel.from_pretrained(load_tiny("tiny56_base", fresh=True), str(target)).eval()


def test_loading_with_it_setting_it_and_pefts_own_reading_are_one_model(
    load: Any, folder: Path, load_tiny: Any, tiny_base_dir: Path, tmp_path: Path
) -> None:
    wanted = logits(by_hand(load_tiny, tiny_base_dir, folder, 4, tmp_path / "four"))
    at_load = load(lora_alpha=4)
    later = load()
    trained = logits(later)
    assert trained.equal(logits(by_hand(load_tiny, tiny_base_dir, folder, 32, tmp_path / "thirty-two")))
    set_lora_alpha(later, 4)
    assert logits(later).equal(logits(at_load))
    torch.testing.assert_close(logits(at_load), wanted, atol=1e-6, rtol=0)
    assert get_lora_alpha(at_load) == get_lora_alpha(later) == 4
    assert not wanted.allclose(trained, atol=1e-3)


@pytest.mark.parametrize("alpha", [4, 0, 7 / 3, 0.1, 22.6])
def test_what_was_set_is_read_back_and_putting_it_back_changes_nothing(load: Any, alpha: float) -> None:
    model = load()
    trained = logits(model)
    assert get_lora_alpha(model) == 32
    set_lora_alpha(model, 32)
    assert logits(model).equal(trained)
    set_lora_alpha(model, alpha)
    assert get_lora_alpha(model) == alpha
    scaled = logits(model)
    set_lora_alpha(model, get_lora_alpha(model))  # type: ignore[arg-type]
    assert logits(model).equal(scaled)
    for other in (5.7, 1e-3, 32):
        set_lora_alpha(model, other)
    assert logits(model).equal(trained)
    set_lora_alpha(model, alpha)
    assert logits(model).equal(scaled)


def test_a_copy_keeps_the_trained_strength(load: Any) -> None:
    model = load(lora_alpha=7 / 3)
    copied = copy.deepcopy(model)
    set_lora_alpha(copied, 32)
    assert logits(copied).equal(logits(load()))
    assert get_lora_alpha(model) == 7 / 3


def test_merged_and_saved_again_it_is_as_strong(load: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    model = load(lora_alpha=7 / 3)
    torch.testing.assert_close(logits(load(lora_alpha=7 / 3, merge=True)), logits(model), atol=5e-5, rtol=0)
    save_adapter(model, tmp_path / "again", {"base": str(tiny_base_dir)})
    again = pllava.load(tmp_path / "again", dtype="float32", device="cpu")[0]
    assert get_lora_alpha(again) == 7 / 3
    assert logits(again).equal(logits(model))


def test_the_engine_gives_the_model_back_as_it_was(load: Any, tiny_processor: Any) -> None:
    from pllava.apps.demo.engine import ChatEngine, Settings

    model = load()
    engine = ChatEngine(pllava.VideoChat(model, tiny_processor, template="tiny"))
    trained = logits(model)
    for alpha in (4, 32, 9.9):
        with engine.use(Settings(lora_alpha=alpha)) as chat:
            assert logits(chat.model).equal(logits(load(lora_alpha=alpha)))
        assert logits(model).equal(trained)


def test_a_registered_version_answers_at_the_strength_it_is_given(load: Any, folder: Path, tiny_base_dir: Path) -> None:
    from mlflow.pyfunc import PythonModelContext

    from pllava.registry.pyfunc import VideoQuestions

    settings = {"lora_alpha": 9.9, "template": "tiny", "dtype": "float32", "device": "cpu"}
    version = VideoQuestions()
    version.load_context(PythonModelContext({"adapter": str(folder), "base": str(tiny_base_dir)}, settings))
    later = load()
    set_lora_alpha(later, 9.9)
    assert logits(version.chat.model).equal(logits(later))


@pytest.mark.parametrize("alpha", [-1, math.nan, math.inf, "4", True])
def test_what_is_no_strength_is_refused(alpha: Any, load_tiny: Any, tiny_base_dir: Path, tmp_path: Path) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, tmp_path / "adapter")
    with pytest.raises(PllavaError, match="is no strength of LoRA"):
        pllava.load(tiny_base_dir, adapter=folder, lora_alpha=alpha)
    with pytest.raises(PllavaError, match="is no strength of LoRA"):
        set_lora_alpha(load_tiny("tiny56_base", adapter="tiny56_lora_r8", lora_alpha=4), alpha)


def test_strength_of_merged_lora_is_refused(load_tiny: Any) -> None:
    model = peft_model(load_tiny("tiny56_base", fresh=True))
    model.merge_adapter()
    with pytest.raises(PllavaError, match="merged into the weights"):
        set_lora_alpha(model, 4)


def test_an_alpha_pattern_beside_alpha_0_has_no_proportion(load_tiny: Any) -> None:
    model = peft_model(load_tiny("tiny56_base", fresh=True), lora_alpha=0, alpha_pattern={"q_proj": 8})
    with pytest.raises(PllavaError, match="lora_alpha 0 beside an alpha_pattern"):
        set_lora_alpha(model, 4)
    plain = peft_model(load_tiny("tiny56_base", fresh=True), lora_alpha=0)
    set_lora_alpha(plain, 4)
    assert get_lora_alpha(plain) == 4


def test_the_page_shows_a_strength_that_can_be_put_back() -> None:
    from pllava.apps.demo.settings_panel import strengths

    for alpha in (32, 4.0, 22.6, 0.1, 11.313708498984761, 0, None):
        slider = strengths(alpha)
        assert abs(slider["value"] / slider["step"] - round(slider["value"] / slider["step"])) < 1e-6
        assert slider["minimum"] <= slider["value"] <= slider["maximum"]
        assert slider["visible"] == (alpha is not None)
