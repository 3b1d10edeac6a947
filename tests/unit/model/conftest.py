"""The recorded adapter, and checkpoint folders that a test may change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def lora_dir(reference: Path) -> Path:
    return reference / "ckpt" / "tiny56_lora_r8"


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint folder with changed tensors or config."""

    def copy(folder: Path, change: Callable[[Tensors], Any] | None = None, **config: Any) -> Path:
        target = tmp_path / folder.name
        shutil.copytree(folder, target)
        if change is not None:
            tensors = load_file(target / "model.safetensors")
            change(tensors)
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        if config:
            values = json.loads((target / "config.json").read_text()) | config
            (target / "config.json").write_text(json.dumps(values))
        return target

    return copy
