"""A SigLIP base and a OneVision base through every room: asked, prepared for, trained on, evaluated, exported, served by reference."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import write_base
from safetensors.torch import load_file

import pllava
from pllava.chat import VideoChat
from pllava.chat.model_ref import ModelRef
from pllava.core.params import Params
from pllava.model.adapter import verify_adapter
from pllava.model.export import export
from pllava.stages.evaluate.run import evaluate
from pllava.stages.features.run import features
from pllava.stages.prepare.run import prepare
from pllava.stages.train.loop import OUTPUT, run

KINDS = ["interleave", "onevision"]
POOLED = {"num_frames": 4, "pooling_shape": (4, 3, 3)}
CLIP = "data/raw/small/videos/train/0.mp4"


@pytest.fixture(params=KINDS)
def params(request: Any, project: Callable[..., Params], tiny_base_dir: Path) -> Params:
    """Params of the small corpus on a base of that kind, with the base's own chat template."""
    base = Path("data/base") / request.param
    write_base(request.param, base, tiny_base_dir)
    return project(
        model={"base": str(base), "template": "chat", **POOLED},
        train={"max_length": 200, "turns": "independent"},
        evaluate={"benchmarks": {"mvbench": {"root": "data/raw/small/MVBench", "template": "chat", "max_new_tokens": 4}}},
    )


def test_a_base_is_asked_trained_on_evaluated_and_exported(params: Params, tmp_path: Path) -> None:
    base = params.model.base
    model, processor = pllava.load(base, dtype="float32", device="cpu", **POOLED)
    chat = VideoChat(model, processor)
    video = chat.watch(CLIP)
    answer = video.ask("Which way does it move?", max_new_tokens=5)
    assert answer.prompt == "<|im_start|>user <image>\nWhich way does it move?<|im_end|><|im_start|>assistant\n"
    batch = processor(text=answer.prompt, videos=video.frames.frames)
    whole = chat.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=sorted(chat.end_token_ids))
    assert whole == [answer.token_ids]  # the shared prefix changes nothing
    assert chat.shares_prefix

    prepare(params)
    features(params)
    run(params)
    adapter = OUTPUT / "adapter"
    verify_adapter(adapter)
    trained = load_file(adapter / "adapter_model.safetensors")
    assert all("language_model" in name or "multi_modal_projector" in name for name in trained)
    assert any("lora_A" in name for name in trained)
    assert not any("vision_tower" in name for name in trained)

    ref = ModelRef.parse(str(adapter), params=params)
    assert ref.template == "chat"
    adapted = ref.load()
    assert adapted.watch(CLIP).ask("Which way does it move?", max_new_tokens=5).prompt == answer.prompt
    metrics = json.loads(evaluate(params, "mvbench").read_text())
    assert metrics["models"].keys() == {"base", "single_frame", "adapted"}

    out = export(base, tmp_path / "exported", adapter=adapter, dtype="float32")
    again = VideoChat(*pllava.load(out, dtype="float32", device="cpu"))
    expected = adapted.watch(CLIP).ask("How many?", max_new_tokens=8)
    assert again.watch(CLIP).ask("How many?", max_new_tokens=8).token_ids == expected.token_ids
    assert alone_tokens(out) == features_of(again, out)


def features_of(chat: VideoChat, out: Path) -> float:
    pixels = torch.linspace(-1, 1, 3 * 63 * 63).view(1, 3, 63, 63)
    return pytest.approx(float(chat.model.vision_features(pixels).sum()), rel=1e-4)


def alone_tokens(out: Path) -> float:
    """The tower's sum by transformers alone, in a process without this project."""
    code = (
        "import sys, torch; sys.modules['pllava'] = None\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(out)!r}, trust_remote_code=True)\n"
        f"processor = AutoProcessor.from_pretrained({str(out)!r}, trust_remote_code=True)\n"
        "assert processor.squashes\n"
        "print(float(model.vision_features(torch.linspace(-1, 1, 3 * 63 * 63).view(1, 3, 63, 63)).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def test_a_base_alone_answers_by_its_own_template(params: Params) -> None:
    ref = ModelRef.parse(params.model.base)
    assert ref.template == "chat"
    chat = ref.load()
    assert chat.processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in chat.end_token_ids
