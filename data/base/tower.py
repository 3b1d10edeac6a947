"""Pre-train the CLIP-layout tower: what is under each patch, and where the patch is. `python tower.py` writes build/tower.safetensors .

The heads read the second-to-last layer, the one LLaVA reads; position is a target too, so that "where" survives to the projector.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from pllava.stages.render.scene import COLORS, SHAPES, Look, draw, random_ground, random_names

HERE = Path(__file__).parent
IMAGE, PATCH, RENDER = 48, 8, 128
GRID = IMAGE // PATCH
MEAN, STD = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
COLOR_INDEX = {color: index + 1 for index, color in enumerate(COLORS)}
SHAPE_INDEX = {shape: index + 1 for index, shape in enumerate(SHAPES)}


def tower_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE,
        patch_size=PATCH,
        projection_dim=128,
    )


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, 128, 128, 3] -> float [B, 3, 48, 48], resized as the processor does."""
    small = np.stack([np.asarray(Image.fromarray(image).resize((IMAGE, IMAGE), Image.Resampling.BICUBIC)) for image in images])
    return ((torch.from_numpy(small).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def patch_labels(looks: list[Look]) -> np.ndarray:
    """[2, 36] color and shape under each patch; 0: ground, -100: too little of an object to say."""
    labels = np.zeros((2, GRID * GRID), dtype=np.int64)
    axis = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(axis, axis)
    for look in looks:
        distance = np.maximum(np.abs(x - look.x), np.abs(y - look.y)).ravel()
        inside, near = distance < look.radius, distance < look.radius + 0.5 / GRID
        labels[:, near & ~inside & (labels[0] <= 0)] = -100
        labels[0, inside], labels[1, inside] = COLOR_INDEX[look.color], SHAPE_INDEX[look.shape]
    return labels


def scattered(rng: random.Random) -> list[Look]:
    """One to five objects of any size anywhere, a little apart."""
    looks: list[Look] = []
    for color, shape in random_names(rng, rng.randint(1, 5)):
        look = Look(color, shape, rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.18))
        if all(max(abs(look.x - other.x), abs(look.y - other.y)) > look.radius + other.radius - 0.02 for other in looks):
            looks.append(look)
    return looks


def batch(rng: random.Random, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = [scattered(rng) for _ in range(size)]
    images = np.stack([draw(looks, RENDER, random_ground(rng)) for looks in drawn])
    return pixels(images), torch.from_numpy(np.stack([patch_labels(looks) for looks in drawn]))


def main(steps: int = 2000, size: int = 96) -> None:
    torch.manual_seed(0)
    rng = random.Random(1)
    tower = CLIPVisionModel(tower_config())
    heads = nn.ModuleList([nn.Linear(128, len(COLORS) + 1), nn.Linear(128, len(SHAPES) + 1), nn.Linear(128, GRID * GRID)])
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, steps, pct_start=0.1)
    where = torch.arange(GRID * GRID)
    start = time.time()
    for step in range(steps):
        images, labels = batch(rng, size)
        images = images + 0.03 * torch.randn_like(images)
        hidden = tower(images, output_hidden_states=True).hidden_states[-2][:, 1:]
        color, shape, place = (head(hidden).transpose(1, 2) for head in heads)
        losses = [
            nn.functional.cross_entropy(color, labels[:, 0]),
            nn.functional.cross_entropy(shape, labels[:, 1]),
            nn.functional.cross_entropy(place, where.expand(len(images), -1)),
        ]
        optimizer.zero_grad()
        (losses[0] + losses[1] + 0.3 * losses[2]).backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            seen = labels[:, 0] > 0
            right = [(logits.argmax(1) == labels[:, i])[seen].float().mean().item() for i, logits in enumerate((color, shape))]
            at = (place.argmax(1) == where).float().mean().item()
            print(
                f"step {step + 1} color {right[0]:.3f} shape {right[1]:.3f} place {at:.3f} {time.time() - start:.0f} s",
                flush=True,
            )
    (HERE / "build").mkdir(exist_ok=True)
    save_file(tower.state_dict(), HERE / "build" / "tower.safetensors")


if __name__ == "__main__":
    main()
