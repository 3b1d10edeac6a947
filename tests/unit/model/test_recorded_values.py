"""Forward, loss, gradients, training steps and generation equal the recorded values of the published model (tests/reference)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import recorded
import torch

MODELS = ("model_tiny56", "model_tiny336")
# recorded cases of what the published model can't do, or does by mixing samples; test_media.py says what is right
NOT_COMPARED = {"proj/video_6frames_error", "proj/image_batch2_mixing"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    kind = metafunc.function.__name__.removeprefix("test_")
    folder = metafunc.config.getoption("--reference")
    found = [
        (folder / f"{model}.json", name)
        for model in MODELS
        for name, meta in recorded.cases(folder / f"{model}.json").items()
        if meta["kind"] == kind and name not in NOT_COMPARED
    ]
    metafunc.parametrize("case", found, ids=[f"{file.stem}-{name}" for file, name in found])


class Case:
    def __init__(self, file: Path, name: str):
        self.meta = recorded.cases(file)[name]
        self.tensors = recorded.tensors(file, name)
        self.size = file.stem.removeprefix("model_")
        self.config = recorded.cases(file)["config"]

    @property
    def base(self) -> str:
        name = self.meta.get("base") or self.meta.get("ckpt") or f"{self.size}_base"
        return f"{self.size}_base" if "_lora_" in name else name

    def pixels(self) -> Any:
        return recorded.pixels_of(self.meta, self.config["nf"])

    def expanded(self, model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        n = model.config.num_visual_tokens if self.meta["pixels"] is not None else 1
        t = self.tensors
        return recorded.expand(t["input_ids"], t["attention_mask"], self.config["image_token_index"], n, t.get("labels"))


def settings(meta: dict[str, Any]) -> dict[str, Any]:
    """Arguments of pllava.load. Published code read an adapter folder without LoRA as its projector alone: LoRA of strength 0."""
    adapter = meta.get("adapter")
    alpha = {"lora_alpha": meta.get("lora_alpha", 0)} if adapter else {}
    pooling = {"pooling_shape": tuple(meta["pooling_shape"])} if meta.get("pooling_shape") else {}
    return {"adapter": adapter, **alpha, **pooling}


def published(name: str) -> str:
    """Parameter name of a peft-wrapped model of ours -> published name."""
    name = name.replace(".modules_to_save.default.", ".").removeprefix("base_model.model.model.")
    return name.replace("language_model.", "language_model.base_model.model.model.", 1)


def adapter_from_case(case: Case, load_tiny: Any) -> Any:
    """A fresh copy of the adapted model: the test will change it."""
    return load_tiny(case.base, adapter=case.meta["adapter"], lora_alpha=case.meta["lora_alpha"], fresh=True)


@torch.no_grad()
def test_vision(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    features = load_tiny(c.base).vision_features(c.pixels()[0])
    assert list(features.shape) == c.meta["full_shape"]
    torch.testing.assert_close(features[:, :: c.meta["stored_patch_stride"]], c.tensors["output"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_projector(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    model = load_tiny(c.base, pooling_shape=tuple(c.meta["pooling_shape"]))
    features = recorded.features_of(c.meta)
    if "image_after_train_repeat" in case[1]:  # published: all frames tiled over again, num_frames^2 in all
        projector, config = model.model.multi_modal_projector, model.config
        wide = type(config)(**{**config.to_dict(), "num_frames": len(features) ** 2})
        tokens = projector(features.repeat(len(features), 1, 1)[None], wide)
    else:
        tokens = model.project(features.unflatten(0, (c.meta["out_shape"][0], -1)))
    assert list(tokens.shape) == c.meta["out_shape"]
    torch.testing.assert_close(tokens[:, :: c.meta["stored_token_stride"]], c.tensors["output"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_forward(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    model = load_tiny(c.base, **settings(c.meta))
    ids, mask, labels = c.expanded(model)
    assert mask.equal(c.tensors["merged_attention_mask"])
    out = model(input_ids=ids, attention_mask=mask, pixel_values_videos=c.pixels(), labels=labels)
    positions = c.tensors.get("logits_positions", torch.arange(ids.shape[1]))
    attended = mask[:, positions].bool()
    tolerance = 5e-4 if c.meta.get("lora_alpha", 0) > 4 else 2e-4
    torch.testing.assert_close(out.logits[:, positions][attended], c.tensors["logits"][attended], atol=tolerance, rtol=0)
    if c.meta["loss"] is not None:
        assert out.loss.item() == pytest.approx(c.meta["loss"], abs=1e-4)


def test_generate(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    model = load_tiny(c.base, **settings(c.meta))
    ids, mask, _ = c.expanded(model)
    out = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values_videos=c.pixels(), max_new_tokens=c.meta["max_new_tokens"], do_sample=False
    )
    assert out[:, ids.shape[1] :].tolist() == c.meta["new_ids"]


def test_grad(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    model = adapter_from_case(c, load_tiny)
    ids, mask, labels = c.expanded(model)
    loss = model(input_ids=ids, attention_mask=mask, pixel_values_videos=c.pixels(), labels=labels, logits_to_keep=1).loss
    loss.backward()
    assert loss.item() == pytest.approx(c.meta["loss"], abs=1e-4)
    grads = {published(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(grads) == sorted(c.meta["grad_norms"])
    for name, norm in c.meta["grad_norms"].items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    for key, value in c.tensors.items():
        if key.startswith("grad."):
            torch.testing.assert_close(grads[key.removeprefix("grad.")], value, atol=1e-4, rtol=1e-3)


def test_train_steps(case: tuple[Path, str], load_tiny: Any) -> None:
    c = Case(*case)
    model = adapter_from_case(c, load_tiny)
    ids, mask, labels = c.expanded(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": c.meta["weight_decay"]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=c.meta["base_lr"], betas=tuple(c.meta["betas"]))
    losses = []
    for lr in c.meta["lr_used"]:
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = model(input_ids=ids, attention_mask=mask, pixel_values_videos=c.pixels(), labels=labels, logits_to_keep=1).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(c.meta["losses"], abs=5e-4)
    final = {published(name): p for name, p in model.named_parameters()}
    for key, value in c.tensors.items():
        if key.startswith("final."):
            torch.testing.assert_close(final[key.removeprefix("final.")].detach(), value, atol=1e-4, rtol=1e-3)
