"""Computing only what the crop keeps changes no pixel."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pllava.video import region
from pllava.video.aspect import steps, tower_pictures
from pllava.video.region import Crop, Pass, crop

SIZES = [(1920, 1080), (1280, 720), (720, 1280), (640, 272), (176, 144), (596, 336), (854, 480), (480, 854), (1281, 721), (2560, 1440),
         (1279, 3), (40, 1300), (336, 336), (57, 56), (30, 30), (1, 1), (960, 540)]  # fmt: skip


def whole(frame: np.ndarray, todo: list[Pass | Crop]) -> np.ndarray:
    """Pillow on whole frames."""
    image = Image.fromarray(frame)
    for step in todo:
        if isinstance(step, Pass):
            size = list(image.size)
            assert size[step.axis] == step.old
            size[step.axis] = step.new
            image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        else:
            image = image.crop((step.left, step.top, step.left + step.size[0], step.top + step.size[1]))
    return np.asarray(image)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resolution", "side"), [(336, 336), (56, 56), (60, 56), (48, 50)])
def test_every_pixel_is_that_of_the_whole_frame(size: tuple[int, int], resolution: int, side: int):
    frame = np.random.default_rng(size[0] * resolution).integers(0, 256, (size[1], size[0], 3), np.uint8)
    todo = steps([size], 0, resolution, (side, side))
    np.testing.assert_array_equal(crop(frame, todo), whole(frame, todo))


def test_clips_of_one_sample_too():
    sizes = [(90, 41), (400, 390), (57, 200)]
    for number, (width, height) in enumerate(sizes):
        frame = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        todo = steps(sizes, number, 56, (56, 56))
        np.testing.assert_array_equal(crop(frame, todo), whole(frame, todo))


@pytest.mark.parametrize("size", SIZES)
def test_a_second_time_changes_nothing_and_neither_do_threads(size: tuple[int, int]):
    frames = np.random.default_rng(7).integers(0, 256, (3, size[1], size[0], 3), np.uint8)
    once = tower_pictures([frames], 56, (56, 56))
    assert once[0].shape == (3, 56, 56, 3)
    np.testing.assert_array_equal(tower_pictures(once, 56, (56, 56))[0], once[0])
    np.testing.assert_array_equal(tower_pictures([frames], 56, (56, 56), threads=2)[0], once[0])


def test_a_frame_of_extreme_aspect_takes_little_memory():
    """Scaled whole, a frame of 2 x 4000 pixels is one of 336 x 672,000: 0.9 GB. What is kept of it are 336 x 336."""
    script = """
import resource, sys
import numpy as np
from pllava.video.aspect import tower_pictures
frame = np.random.default_rng(5).integers(0, 256, (1, 4000, 2, 3), np.uint8)
tower_pictures([frame[:, :2]], 336, (336, 336))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert tower_pictures([frame], 336, (336, 336))[0].shape == (1, 336, 336, 3)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown // (1 << 20 if sys.platform == "darwin" else 1 << 10))
"""
    assert int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout) < 150


def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch):
    for size in ((16, 900), (900, 16), (300, 200), (1281, 3)):
        frame = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
        todo = steps([size], 0, 56, (56, 56))
        for most in (1, 2000, 50_000):
            monkeypatch.setattr(region, "MOST_PIXELS", most)
            np.testing.assert_array_equal(crop(frame, todo), whole(frame, todo))
