"""Training says the same thing however the work is cut up, and writes one whole folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

import pllava
from pllava.chat import load_template
from pllava.chat.conversation import IGNORE
from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.model.adapter import resolved_config, verify_adapter
from pllava.stages.train.loop import OUTPUT, Trainer, be_deterministic, run
from pllava.stages.train.steps import StepSampler

Project = Callable[..., Params]


def trainer(params: Params) -> Trainer:
    from accelerate import Accelerator

    be_deterministic(params)
    return Trainer(params, Accelerator(cpu=True, mixed_precision="no"))


def gradients(params: Params) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, before the update."""
    made = trainer(params)
    settings = params.train
    held: dict[str, torch.Tensor] = {}
    made.accelerator.clip_grad_norm_ = lambda *_: held.update(  # type: ignore[method-assign]
        {name: parameter.grad.clone() for name, parameter in made.peft.named_parameters() if parameter.grad is not None}
    )
    loss, _ = made._step(list(islice(made.inputs.steps(1), settings.gradient_accumulation)))
    return float(loss), held


def outputs() -> dict[str, str]:
    return {path.relative_to(OUTPUT).as_posix(): sha256_file(path) for path in sorted(OUTPUT.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("accumulation", "turns"), [(2, "conversation"), (4, "conversation"), (2, "independent")])
@pytest.mark.parametrize("packing", [False, True])
def test_gradient_accumulation_equals_one_big_batch(prepared: Project, accumulation: int, turns: str, packing: bool) -> None:
    """Samples have 1 to 4 answers, so micro-batches differ in supervised tokens: a mean of means would be another loss."""
    whole_loss, whole = gradients(prepared(train={"turns": turns}))
    loss, parts = gradients(prepared(train={"turns": turns, "packing": packing, "gradient_accumulation": accumulation}))
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-6 * max(1.0, float(gradient.abs().max())))


def test_only_lora_and_projector_learn(prepared: Project) -> None:
    _, held = gradients(prepared())
    assert {name.split(".")[-2] if "projector" not in name else "projector" for name in held} <= {"default", "projector"}
    assert all("lora_" in name or "multi_modal_projector" in name for name in held)
    assert not any("vision_tower" in name for name in held)


def test_loss_is_the_mean_over_supervised_tokens_of_the_plain_forward(prepared: Project) -> None:
    """Against all logits of the whole model, with mask and pixels: neither the missing mask nor the kept features change it."""
    params = prepared()
    made = trainer(params)
    sampler = StepSampler(made.inputs.lengths["train"], 1, 4, 1, params.seed)
    batch = next(iter(made.inputs.loader("train", sampler)))
    rows = next(iter(sampler))
    processor = pllava.load(params.model.base, num_frames=4)[1]
    clips = [pllava.read_video(made.inputs.data["train"].rows[row].media, 4, "middle").frames for row, _ in rows]
    with torch.no_grad():
        logits = made.base(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            pixel_values_videos=torch.stack([processor.preprocess_video(frames) for frames in clips]),
        ).logits
        plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE)
        tokens = (batch["labels"][:, 1:] != IGNORE).sum()
        assert float(made._loss(batch, tokens)) == pytest.approx(float(plain), rel=1e-5)


def test_two_runs_are_equal_bytes_and_so_are_features_off(prepared: Project) -> None:
    params = prepared()
    assert run(params) == OUTPUT
    first = outputs()
    run(params)
    assert outputs() == first
    assert set(first) >= {"history.jsonl", "adapter/manifest.json", "adapter/adapter_model.safetensors", "adapter/config.yaml"}
    verify_adapter(OUTPUT / "adapter")
    assert resolved_config(OUTPUT / "adapter")["template_sha256"] == load_template(params.model.template).sha256

    history = [json.loads(line) for line in (OUTPUT / "history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history] == [0, 2, 3, 4, 6]
    assert set(history[-1]) == {"step", "loss", "lr", "grad_norm", "val_loss"}
    assert history[-1]["val_loss"] < history[0]["val_loss"]

    run(params.model_copy(update={"features": params.features.model_copy(update={"enabled": False}), "data": params.data}))
    off = outputs()
    assert off["history.jsonl"] == first["history.jsonl"]
    assert off["adapter/adapter_model.safetensors"] == first["adapter/adapter_model.safetensors"]

    model, _ = pllava.load(OUTPUT / "adapter", device="cpu")
    assert model.config.num_frames == 4


def test_random_frames_and_dropout_are_functions_of_the_seed(prepared: Project) -> None:
    train = {"sampling": "rand", "turns": "independent", "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    found = []
    for seed in (5, 5, 6):
        run(prepared(seed=seed, features={"enabled": False}, train=train, data={"workers": 2}))
        found.append(outputs()["adapter/adapter_model.safetensors"])
    assert found[0] == found[1] != found[2]


def test_a_run_that_stops_leaves_nothing_half_written(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pllava.stages.train.output.atomic_write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(prepared(train={"steps": 1}))
    assert list(Path("outputs").iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_run(prepared: Project) -> None:
    with pytest.raises(PllavaError, match=r"the loss is (nan|inf) at step"):
        run(prepared(train={"learning_rate": 1e30, "max_grad_norm": 1e30, "steps": 8}))
    assert not OUTPUT.exists()
