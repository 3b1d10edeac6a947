"""A rendered picture: shapes on a plain ground, and how they are drawn.

A scene is a grid of 3 x 3 places. Color and shape name an object ("red circle"); a name occurs at most once in a scene.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 45),
    "green": (40, 190, 70),
    "blue": (55, 95, 245),
    "yellow": (240, 220, 50),
    "purple": (185, 65, 215),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle")
SUPERSAMPLE = 2  # pictures are drawn larger and averaged down, so that edges are smooth and slow motion is visible


@dataclass(frozen=True)
class Look:
    """How one object looks in one frame. x, y, radius in units of the picture's side."""

    color: str
    shape: str
    x: float
    y: float
    radius: float = 0.12
    visible: bool = True

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


def place_center(place: int) -> tuple[float, float]:
    """(x, y) of the middle of place 0..8 (row by row), in units of the picture's side."""
    return (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3


def draw(objects: list[Look], size: int, ground: tuple[int, int, int]) -> np.ndarray:
    """The picture, uint8 [size, size, 3]. Later objects cover earlier ones."""
    side = size * SUPERSAMPLE
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    for item in objects:
        if not item.visible:
            continue
        x, y, r = item.x * side, item.y * side, item.radius * side
        if item.shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=COLORS[item.color])
        elif item.shape == "square":
            half = 0.88 * r
            pen.rectangle((x - half, y - half, x + half, y + half), fill=COLORS[item.color])
        else:
            pen.polygon([(x, y - 1.1 * r), (x - 1.05 * r, y + 0.8 * r), (x + 1.05 * r, y + 0.8 * r)], fill=COLORS[item.color])
    return np.asarray(image.reduce(SUPERSAMPLE))


def random_ground(rng: random.Random) -> tuple[int, int, int]:
    """A dark, nearly grey color, on which every color of COLORS is visible."""
    base = rng.randint(10, 60)
    red, green, blue = (max(0, base + rng.randint(-8, 8)) for _ in range(3))
    return red, green, blue


def random_names(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """`count` different (color, shape) pairs."""
    return rng.sample([(color, shape) for color in COLORS for shape in SHAPES], count)
