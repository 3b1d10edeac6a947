"""An exported folder gives the same answers in a virtual environment that doesn't have this project."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pllava
from pllava.model.export import export

PROMPT = "USER: <image> what? ASSISTANT:"
ELSEWHERE = f"""
import importlib.util, sys
assert importlib.util.find_spec("pllava") is None, "this project is here"
import numpy, torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, frames, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
batch = processor(text=["{PROMPT}"], videos=[numpy.load(frames)])
with torch.no_grad():
    logits = model(**batch).logits
save_file({{"logits": logits, "ids": model.generate(**batch, max_new_tokens=5, do_sample=False)}}, out)
"""


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment: links to this one's packages, but for this project's."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)}, scheme="venv")
    packages = Path(paths["purelib"])
    for package in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not package.name.startswith(("pllava", "__editable__")) and package.suffix != ".pth":
            (packages / package.name).symlink_to(package)
    return Path(paths["scripts"], "python")


@pytest.mark.integration
def test_it_loads_without_this_project(reference: Path, clean_python: Path, tmp_path: Path) -> None:
    base, adapter = reference / "ckpt" / "tiny56_base", reference / "ckpt" / "tiny56_lora_r8"
    folder = export(base, tmp_path / "exported", adapter=adapter, lora_alpha=4, dtype="float32")
    frames = np.random.default_rng(0).integers(0, 256, (4, 60, 80, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    out = tmp_path / "out.safetensors"
    # -I: neither the working folder nor PYTHONPATH may bring the project back
    subprocess.run([clean_python, "-I", "-c", ELSEWHERE, folder, tmp_path / "frames.npy", out], check=True, cwd=tmp_path, env=environment)

    model, processor = pllava.load(base, adapter=adapter, lora_alpha=4, dtype="float32", device="cpu", merge=True)
    batch = processor(text=[PROMPT], videos=[frames])
    there = load_file(out)
    with torch.no_grad():
        torch.testing.assert_close(there["logits"], model(**batch).logits, atol=1e-5, rtol=0)
    assert there["ids"].equal(model.generate(**batch, max_new_tokens=5, do_sample=False))
