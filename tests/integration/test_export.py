"""An exported folder gives the same logits where this project is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pllava
from pllava.model.export import export

ELSEWHERE = """
import sys
sys.modules["pllava"] = None  # importing it raises
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
frames = torch.arange(4 * 60 * 80 * 3).reshape(4, 60, 80, 3).to(torch.uint8).numpy()
batch = processor(text=["USER: <image> what? ASSISTANT:"], videos=[frames])
with torch.no_grad():
    save_file({"logits": model(**batch).logits}, out)
"""


@pytest.mark.integration
def test_it_loads_without_this_project(reference: Path, tmp_path: Path) -> None:
    base, adapter = reference / "ckpt" / "tiny56_base", reference / "ckpt" / "tiny56_lora_r8"
    folder = export(base, tmp_path / "exported", adapter=adapter, lora_alpha=4, dtype="float32")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, folder, tmp_path / "logits.safetensors"], check=True, cwd=tmp_path, env=environment)

    model, processor = pllava.load(base, adapter=adapter, lora_alpha=4, dtype="float32", device="cpu", merge=True)
    frames = torch.arange(4 * 60 * 80 * 3).reshape(4, 60, 80, 3).to(torch.uint8).numpy()
    with torch.no_grad():
        here = model(**processor(text=["USER: <image> what? ASSISTANT:"], videos=[frames])).logits
    torch.testing.assert_close(load_file(tmp_path / "logits.safetensors")["logits"], here, atol=1e-5, rtol=0)
