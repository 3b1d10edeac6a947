"""Teach the projector and the first layers to look: `python look.py` writes build/look.safetensors .

Albums alone, no words: every visual token that shows an object says what it is and how it compares with the pictures before (marks.py).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from gallery import load_tower, tower_features
from language import Base
from marks import LONGEST, marks, random_mix
from muon import optimizers
from prompts import Writer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent


def albums(tower: CLIPVisionModel, count: int, seed: str) -> tuple[Tensor, Tensor]:
    """Features [B, 8, 36, 128] and marks [B, 8, 9, M] of albums of eight pictures."""
    rng = random.Random(seed)
    drawn = [random_mix(rng, LONGEST) for _ in range(count)]
    features = tower_features(tower, [picture for album in drawn for picture in album.pictures], seed)
    return features.unflatten(0, (count, LONGEST)), torch.from_numpy(np.stack([marks(album) for album in drawn]))


@torch.no_grad()
def held_out(base: Base, opening: Tensor, features: Tensor, truth: Tensor) -> dict[str, float]:
    """Accuracy by mark."""
    with torch.autocast("cpu", torch.bfloat16):
        return {name: share.item() for name, share in base.look(opening, features, truth)[1].items()}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--albums", type=int, default=10000)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--lr", type=float, default=2e-3)
    options = options.parse_args()
    torch.manual_seed(0)
    rng = random.Random(5)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "tokenizer")
    writer, tower = Writer(tokenizer), load_tower()
    start = time.time()
    features, truth = albums(tower, options.albums, "look")
    test = albums(tower, 256, "look held out")
    print(f"{options.albums} albums in {time.time() - start:.0f} s", flush=True)
    base, opening = Base(len(tokenizer), writer.image), torch.tensor(writer.opening)
    base.check_causal()
    steppers, rate = optimizers(base, options.lr, options.steps, warm=100)
    start = time.time()
    for step in range(options.steps):
        picks = rng.sample(range(options.albums), options.batch)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = base.look(opening, features[picks], truth[picks])
        base.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        rate(steppers, step)
        if step % 100 == 99 or step + 1 == options.steps:
            right = "  ".join(f"{name} {100 * share:.1f}" for name, share in held_out(base, opening, *test).items())
            print(f"step {step + 1} loss {loss.item():.4f} {(time.time() - start) / (step + 1):.2f} s/step  {right}", flush=True)
    save_file({name: value.detach().clone() for name, value in base.state_dict().items()}, HERE / "build" / "look.safetensors")


if __name__ == "__main__":
    main()
