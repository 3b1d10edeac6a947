"""Fixtures every room shares: the numeric reference, and a tiny random model that loads in a second."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
REFERENCE = Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference", type=Path, default=REFERENCE, help="folder of recorded values in the schema of tests/reference/README.md"
    )


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A training makes torch deterministic and sets its threads: they are given back after each test."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def decoding_workers() -> Iterator[None]:
    """A training that a test stops leaves a loader with its worker processes in a reference cycle: they end before the next test."""
    yield
    if multiprocessing.active_children():
        gc.collect()


@pytest.fixture(scope="session")
def reference(pytestconfig: pytest.Config) -> Path:
    """The folder of recorded values (README.md there: schema and tolerances)."""
    return pytestconfig.getoption("--reference")


@pytest.fixture(scope="session")
def tiny_base_dir(reference: Path) -> Path:
    """A random base of the published layout: 56 px, patch 14, 4 frames, pooling (4, 2, 2), Llama 64 x 3; with tokenizer."""
    return reference / "ckpt" / "tiny56_base"


@pytest.fixture(scope="session")
def load_tiny(reference: Path) -> Callable[..., Any]:
    """`load_tiny("tiny56_base", adapter="tiny56_lora_r8", ...)` -> model. Equal calls share it: ask for `fresh=True` to change it."""
    loaded: dict[str, Any] = {}

    def load(base: str, adapter: str | None = None, fresh: bool = False, **settings: Any) -> Any:
        import pllava

        key = repr((base, adapter, sorted(settings.items())))
        if fresh or key not in loaded:
            folder = reference / "ckpt" / adapter if adapter else None
            model, _ = pllava.load(reference / "ckpt" / base, adapter=folder, dtype="float32", device="cpu", **settings)
            if fresh:
                return model
            loaded[key] = model
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def tiny_model(load_tiny: Callable[..., Any]) -> Any:
    """PllavaForConditionalGeneration of `tiny_base_dir`, fp32, eval. Shared: don't change it."""
    return load_tiny("tiny56_base")


@pytest.fixture(scope="session")
def tiny_processor(tiny_base_dir: Path) -> Any:
    from pllava.model.processing import PllavaProcessor

    return PllavaProcessor.from_pretrained(tiny_base_dir)
