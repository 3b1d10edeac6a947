"""Training starts from an adapter, from clips that may be gone, for steps or epochs, and ends when it gets no better."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_adapters import peft_adapter
from safetensors.torch import load_file

import pllava
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.model.convert import convert
from pllava.stages.train import inputs
from pllava.stages.train.loop import OUTPUT, run

Project = Callable[..., Params]
WEIGHTS = OUTPUT / "adapter" / "adapter_model.safetensors"


def history() -> list[dict[str, float]]:
    return [json.loads(line) for line in (OUTPUT / "history.jsonl").read_text().splitlines()]


def test_going_on_from_an_adapter_starts_where_it_ended(prepared: Project) -> None:
    """Ours, and the same one in the published layout."""
    run(prepared(train={"steps": 4}))
    source = history()[-1]["val_loss"]
    shutil.copytree(OUTPUT / "adapter", "ours")
    convert("ours", "published")
    for folder in ("ours", "published"):
        run(prepared(train={"steps": 2, "init_from": folder}))
        assert history()[0] == {"step": 0, "val_loss": source}
        assert history()[-1]["val_loss"] < source
        assert sha256_file(WEIGHTS) != sha256_file(Path("ours/adapter_model.safetensors"))
    with pytest.raises(PllavaError) as refusal:
        run(prepared(train={"init_from": "ours", "lora": {"r": 4, "alpha": 16, "dropout": 0.0}}))
    assert "train.lora.alpha: 16.0 in params.yaml, 8" in str(refusal.value)
    with pytest.raises(PllavaError, match="is what this training writes"):
        run(prepared(train={"init_from": str(OUTPUT / "adapter")}))
    with pytest.raises(PllavaError, match="nowhere"):
        run(prepared(train={"init_from": "nowhere"}))


def test_the_alpha_of_a_published_adapter_is_the_callers(prepared: Project, reference: Path) -> None:
    """Its folder says none: whatever it was trained with, training can go on with that."""
    published = str(reference / "ckpt" / "tiny56_lora_r8")
    before = []
    for alpha in (8, 16):
        run(prepared(train={"steps": 1, "init_from": published, "lora": {"r": 8, "alpha": alpha, "dropout": 0.0}}))
        assert read_json(OUTPUT / "adapter/adapter_config.json")["lora_alpha"] == alpha
        before.append(history()[0]["val_loss"])
    assert before[0] != before[1]


KINDS = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 5}},
    "dora": {"use_dora": True},
    "layers": {"target_modules": r".*language_model.*\.[02]\..*\.(q_proj|v_proj)"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_of_another_kind_is_taken_as_it_is(kind: str, dtype: str, prepared: Project, load_tiny: Any) -> None:
    """Training starts where it was, and ends in an adapter of the same kind."""
    settings = {"r": 4, "lora_alpha": 8, **KINDS[kind]}
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), Path("base"), Path("theirs"), **settings)
    model = {"dtype": dtype}
    train = {"steps": 2, "init_from": str(folder), "lora": {"r": 4, "alpha": 8, "dropout": 0.0}}
    run(prepared(train=train, model=model, features={"enabled": False}))
    first = history()[0]["val_loss"]
    before, after = (read_json(folder / "adapter_config.json") for folder in (folder, OUTPUT / "adapter"))
    assert {key: after[key] for key in settings} == {key: before[key] for key in settings}
    old, new = load_file(folder / "adapter_model.safetensors"), load_file(WEIGHTS)
    assert old.keys() == new.keys()
    assert all(not old[key].equal(new[key]) for key in old), "every tensor is trained"
    last = history()[-1]["val_loss"]
    shutil.copytree(OUTPUT / "adapter", "again")
    run(prepared(train=train | {"steps": 1, "init_from": "again"}, model=model, features={"enabled": False}))
    assert history()[0]["val_loss"] == pytest.approx(last, abs=1e-5 if dtype == "float32" else 0.05) != first


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"projector": False}, "it has no projector"),
        ({"target_modules": ["q_proj", "v_proj"]}, "LoRA outside of the language model"),
        ({"modules_to_save": ["multi_modal_projector", "lm_head"]}, "more than LoRA and projector, .*lm_head"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
    ],
)
def test_an_adapter_this_training_would_change_is_refused(
    settings: dict[str, Any], reason: str, prepared: Project, load_tiny: Any, tiny_base_dir: Path
) -> None:
    folder = peft_adapter(load_tiny("tiny56_base", fresh=True), tiny_base_dir, Path("theirs"), **{"r": 4, "lora_alpha": 8} | settings)
    pllava.load(tiny_base_dir, adapter=folder)  # it answers
    with pytest.raises(PllavaError, match=f"another kind of adapter .*{reason}"):
        run(prepared(train={"steps": 1, "init_from": str(folder)}))


def test_no_worker_dies_of_a_request_to_end_at_its_birth(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation starts some, before torch lets us see to it."""
    leave = inputs.obey_only_parent

    def born(worker: int) -> None:
        Path(f"held-{worker}").write_text(
            " ".join(sorted(signal.Signals(number).name for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        )
        leave(worker)

    monkeypatch.setattr(inputs, "obey_only_parent", born)
    params = prepared(features={"enabled": False}, data={"workers": 1})
    made = inputs.Inputs(params, pllava.load(params.model.base, num_frames=4)[1])
    for batches in (made.steps(1), made.validation()):
        assert len(list(batches)) == 1
        assert Path("held-0").read_text() == "SIGINT SIGTERM"
        Path("held-0").unlink()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_clip_that_is_gone_is_replaced_and_counted(prepared: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """The same with any number of workers; fatal above the set share."""
    clips = Path("data/raw/small/videos/train")
    found = []
    for workers in (1, 2):
        params = prepared(data={"workers": workers}, features={"enabled": False}, train={"max_bad_fraction": 0.2, "steps": 6})
        (clips / "3.mp4").write_bytes(b"rot")
        (clips / "7.mp4").unlink(missing_ok=True)
        run(params)
        found.append(sha256_file(WEIGHTS))
        said = capfd.readouterr().err
        assert "row small:3 is replaced" in said
        assert "row small:7 is replaced" in said
        assert "2 bad clip(s) replaced" in said
        assert "2, replaced by others: small:3, small:7" in (OUTPUT / "summary.md").read_text()
    assert found[0] == found[1]
    with pytest.raises(PllavaError) as fatal:
        run(prepared(features={"enabled": False}, train={"max_bad_fraction": 0.1}))
    assert "2 of 12 train clip(s) cannot be read, train.max_bad_fraction allows 10.0%" in str(fatal.value)


def test_epochs_in_place_of_steps(prepared: Project) -> None:
    run(prepared(train={"steps": None, "epochs": 1.5}))  # 12 rows, 4 a step
    assert history()[-1]["step"] == 4  # of 4.5
    with pytest.raises(ValueError, match="one of steps and epochs"):
        prepared(train={"epochs": 1.0})


def test_the_best_weights_are_kept_and_training_ends_when_nothing_gets_better(prepared: Project) -> None:
    """A rate that is far too high: the validation loss rises after it fell."""
    train = {"steps": 30, "validate_every": 1, "early_stopping": 3, "learning_rate": 0.3, "warmup_ratio": 0.3, "min_lr_ratio": 0.0}
    run(prepared(train={**train, "adapter": "best"}))
    losses = [record["val_loss"] for record in history() if "val_loss" in record]
    assert len(losses) < 30
    assert min(losses) == losses[-4], "three validations after the best"
    best = sha256_file(WEIGHTS)
    assert (OUTPUT / "last" / "manifest.json").exists()
    assert not (OUTPUT / "best").exists()
    run(prepared(train={**train, "adapter": "last"}))
    assert sha256_file(OUTPUT / "best" / "adapter_model.safetensors") == best != sha256_file(WEIGHTS)
    assert read_json(OUTPUT / "best" / "manifest.json")["adapter_sha256"] == best
    run(prepared(train={**train, "init_from": None, "steps": 2, "early_stopping": None}))  # the last is the best: one is enough
    assert not (OUTPUT / "last").exists()


@pytest.mark.parametrize(
    ("turns", "packing"), [("conversation", False), ("independent", False), ("conversation", True), ("independent", True)]
)
def test_text_stills_and_clips_in_one_batch(prepared: Project, turns: str, packing: bool) -> None:
    """The loss of the mixed batch is that of its samples, each alone."""
    from accelerate import Accelerator
    from PIL import Image

    from pllava.artifacts.manifest import PREPARED, read_manifest
    from pllava.stages.prepare.run import prepare
    from pllava.stages.train.loop import Trainer, be_deterministic

    small = Path("data/raw/small")
    Image.new("RGB", (40, 30), (200, 90, 20)).save(small / "still.png")
    (small / "stills.json").write_text(json.dumps([{"image": "still.png", "QA": [{"q": "What?", "a": "A colour."}]}]))
    text = [{"QA": [{"q": f"What is {n}?", "a": f"A number, {n}."}, {"q": "And then?", "a": "Another."}]} for n in range(2)]
    (small / "text.json").write_text(json.dumps(text))
    params = prepared(
        data={
            "train": [
                {"name": "small", "annotations": small / "train.json", "media": small / "videos", "max_rows": 2},
                {"name": "stills", "kind": "image", "annotations": small / "stills.json", "media": small},
                {"name": "text", "kind": "text", "annotations": small / "text.json"},
            ],
            "validation": [{"name": "more", "kind": "text", "annotations": small / "text.json"}],  # the same text: no clip is in two splits
        },
        features={"enabled": False},
        train={"turns": turns, "packing": packing, "batch_size": 5, "steps": 2},
    )
    assert Params.model_validate(params.model_dump(mode="json")) == params  # as it reaches the process that trains
    prepare(params)
    rows = read_manifest(PREPARED / "train.parquet")
    assert sorted({row.kind for row in rows}) == ["image", "text", "video"]
    be_deterministic(params)
    made = Trainer(params, Accelerator(cpu=True))
    one = torch.ones(())
    with torch.no_grad():
        mixed = made._loss(next(iter(made.inputs.loader("train", [[(row, 0) for row in range(5)]]))), one)
        alone = sum(made._loss(batch, one) for batch in made.inputs.loader("train", [[(row, 0)] for row in range(5)]))
    torch.testing.assert_close(mixed, alone, rtol=1e-5, atol=1e-5)
    run(params)
    assert history()[-1]["val_loss"] < history()[0]["val_loss"]
