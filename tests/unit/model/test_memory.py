"""Planned memory against what torch's allocator counts, on random models of two sizes; and the plan a user reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from pllava import cli
from pllava.core import recipes as recipe
from pllava.core.errors import PllavaError
from pllava.core.params import Lora
from pllava.model import memory
from pllava.model.adapter import add_lora
from pllava.model.configuration import PllavaConfig
from pllava.model.modeling import PllavaForConditionalGeneration
from pllava.model.plan import describe, make_plan
from pllava.stages.train.optimizer import adamw

ROOT = Path(__file__).parents[3]
TOLERANCE = 0.2
TEXT, ANSWER, RANK = 90, 20, 64


def config(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, tower: int, image: int, patch: int, shape: list[int]
) -> PllavaConfig:
    grid = image // patch
    return PllavaConfig.from_llava(
        {
            "model_type": "llava", "num_frames": shape[0], "pooling_shape": shape, "frame_shape": [grid, grid], "image_token_index": 4,
            "pad_token_id": 3, "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
            "text_config": {
                "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": 1000,
                "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 4096,
                "tie_word_embeddings": False,
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": tower, "intermediate_size": 4 * tower, "num_hidden_layers": 4,
                "num_attention_heads": 4, "image_size": image, "patch_size": patch, "projection_dim": tower,
            },
        }
    )  # fmt: skip


CASES = {
    "tiny, 32 clips": (config(192, 448, 5, 6, 6, 128, 48, 8, [8, 3, 3]), 32),
    "tiny, 4 clips": (config(192, 448, 5, 6, 6, 128, 48, 8, [8, 3, 3]), 4),
    "mid": (config(256, 688, 6, 8, 8, 192, 336, 14, [16, 12, 12]), 1),
    "mid, grouped queries, few tokens": (config(256, 688, 6, 8, 2, 192, 224, 14, [16, 4, 4]), 3),
}
IN_16_BITS = ("mid", "mid, grouped queries, few tokens")  # autocast, as training with mixed precision


def peak_bytes(work: Any) -> int:
    """Highest sum of what the CPU allocator has handed out while `work` runs, above what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


@pytest.fixture(params=[*((name, "float32") for name in CASES), *((name, "bfloat16") for name in IN_16_BITS)], scope="module", ids=" ".join)
def case(request: pytest.FixtureRequest) -> tuple[PllavaConfig, int, str, Any, dict[str, torch.Tensor]]:
    name, dtype = request.param
    chosen, clips = CASES[name]
    torch.manual_seed(0)
    model = PllavaForConditionalGeneration(chosen).eval().to(getattr(torch, dtype))
    ids = torch.full((clips, chosen.num_visual_tokens + TEXT), 10)
    ids[:, 1 : 1 + chosen.num_visual_tokens] = chosen.image_token_index
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = 10
    side = chosen.vision_config.image_size
    return chosen, clips, dtype, model, {"ids": ids, "labels": labels, "videos": torch.randn(clips, chosen.num_frames, 3, side, side)}


def test_weights_are_counted_to_the_byte(case: Any) -> None:
    chosen, _, dtype, model, _ = case
    assert memory.weight_bytes(chosen, dtype) == sum(p.numel() * p.element_size() for p in model.parameters())


def test_inference_peak(case: Any) -> None:
    chosen, clips, dtype, model, batch = case

    def work() -> None:
        ids = batch["ids"]
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=batch["videos"], max_new_tokens=4, do_sample=False
        )

    planned = memory.inference(chosen, TEXT, 4, clips, dtype=dtype)
    assert planned.activations + planned.kv_cache == pytest.approx(peak_bytes(work), rel=TOLERANCE)


def test_training_peak(case: Any) -> None:
    chosen, clips, dtype, model, batch = case
    with torch.no_grad():
        features = torch.stack([model.vision_features(video) for video in batch["videos"]])
    peft = add_lora(model, Lora(r=RANK), 0)
    peft.train()
    optimizer = adamw(peft, 1e-4, 0.0)
    trainable = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert memory.trainable_parameters(chosen, RANK) == trainable

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            output = peft(input_ids=batch["ids"], labels=batch["labels"], vision_features=features, logits_to_keep=1, use_cache=False)
        output.loss.backward()
        optimizer.step()

    planned = memory.training(chosen, TEXT, clips, RANK, dtype=dtype, supervised_tokens=ANSWER)
    measured = peak_bytes(work) + 4 * trainable  # the LoRA weights were there before
    peft.unload()
    assert planned.activations + planned.trained == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("targets", [["o_proj"], ["k_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]])
def test_lora_is_counted_by_the_layers_it_is_on(targets: list[str]) -> None:
    chosen = config(192, 448, 5, 6, 2, 128, 48, 8, [8, 3, 3])
    peft = add_lora(PllavaForConditionalGeneration(chosen), Lora(r=RANK, target_modules=targets), 0)
    assert memory.trainable_parameters(chosen, RANK, targets) == sum(p.numel() for p in peft.parameters() if p.requires_grad)


def test_grouped_queries_shrink_the_cache_and_packing_the_matrices() -> None:
    whole, grouped = (config(192, 448, 5, 6, kv, 128, 48, 8, [8, 3, 3]) for kv in (6, 2))
    assert memory.kv_cache_bytes(whole, 100, 1, "bfloat16") == 3 * memory.kv_cache_bytes(grouped, 100, 1, "bfloat16")
    count = memory.parameters(whole)
    packed = memory.weight_bytes(whole, "bfloat16", bits=4)
    assert packed == 2 * (count.total - count.language_linear) + count.language_linear // 2


@pytest.mark.parametrize(("name", "billions"), [("pllava-7b", 7.06), ("pllava-13b", 13.35), ("pllava-34b", 34.75)])
def test_recipes_are_planned_without_their_weights(monkeypatch: pytest.MonkeyPatch, name: str, billions: float) -> None:
    monkeypatch.chdir(ROOT)
    plan = make_plan(name, recipe.load(name), device_gib=80, processes=8)
    assert plan.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert plan.visual_tokens == 2304
    assert plan.text_budget == plan.context - 2304
    assert plan.inference.weights == 2 * plan.parameters
    assert plan.fits(plan.inference)
    assert f"{plan.visual_tokens:,} a video" in describe(plan)


def test_more_of_anything_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = recipe.load("pllava-7b")
    one, beams, few = (make_plan("pllava-7b", params, 16, beams=b, processes=p) for b, p in ((1, 1), (5, 1), (1, 8)))
    assert beams.inference.total > one.inference.total
    assert few.clips < one.clips
    assert few.training.total < one.training.total
    assert "does not fit" in describe(one)
    assert "fits" in describe(make_plan("pllava-7b", params, 10_000))


@pytest.mark.parametrize(("gib", "code"), [("24", 1), ("10000", 0)])
def test_the_plans_exit_code_says_whether_it_fits(gib: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli.app, ["plan", "pllava-7b", "--device", gib])
    assert result.exit_code == code
    for line in (
        "visual tokens",
        "text budget",
        "weights",
        "KV cache",
        "activations",
        "LoRA, projector, AdamW",
        "inference on",
        "training on",
    ):
        assert line in result.output


def test_params_on_a_published_base_are_planned_without_fetching_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("pllava.model.layouts.resolve", lambda name: pytest.fail(f"{name} would be fetched"))
    assert make_plan("params.yaml", recipe.load("pllava-34b")).parameters / 1e9 == pytest.approx(34.75, abs=0.01)


def test_a_video_that_leaves_no_room_for_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = recipe.load("pllava-7b")
    model = params.model.model_copy(update={"num_frames": 64, "pooling_shape": (64, 12, 12)})
    with pytest.raises(PllavaError, match=r"9216 visual tokens .* context of 4096"):
        make_plan("pllava-7b", params.model_copy(update={"model": model}))
