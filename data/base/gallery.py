"""Rendered pictures as the frozen tower sees them, kept in memory: the tower runs once over each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from stills import Still
from torch import Tensor
from tower import RENDER, pixels, tower_config
from transformers import CLIPVisionModel

HERE = Path(__file__).parent
CHUNK = 512


def load_tower() -> CLIPVisionModel:
    tower = CLIPVisionModel._from_config(tower_config(), attn_implementation="sdpa").eval()
    tower.load_state_dict(load_file(HERE / "build" / "tower.safetensors"))
    return tower


def _render(job: tuple[Sequence[Still], str]) -> Tensor:
    stills, seed = job
    rng = random.Random(seed)
    return pixels(np.stack([still.render(rng, RENDER)[0] for still in stills]))


@torch.no_grad()
def tower_features(tower: CLIPVisionModel, stills: Sequence[Still], seed: str) -> Tensor:
    """[N, 36, 128] float16, the second-to-last layer without the class token."""
    jobs = [(stills[first : first + CHUNK], f"{seed}/{first}") for first in range(0, len(stills), CHUNK)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:  # a forked child would wait for torch's threads
        return torch.cat([tower(images, output_hidden_states=True).hidden_states[-2][:, 1:].half() for images in pool.map(_render, jobs)])
