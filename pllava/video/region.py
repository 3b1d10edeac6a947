"""Resize and crop a frame, and compute only the pixels that the last crop keeps: `crop(frame, steps)`.

Every pixel equals the pixel of Pillow's resize of the whole frame. A pass resizes along one axis, line by line, and skips the lines that
no later step needs. Within a line a pass needs the full length, because Pillow computes the weights from the length. Where the length
shrinks by a whole factor, all pixels have the same weights, and a part of the line is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from PIL import Image

REACH = 2.0  # pixels of the coarser picture on either side that a bicubic weight covers
MOST_PIXELS = 1 << 23  # in a picture between two passes, 4 bytes each; a frame of 3840 x 2160 has fewer
Span = tuple[int, int]  # first pixel, and the one after the last


@dataclass(frozen=True)
class Pass:
    """Bicubic along one axis (0: width, 1: height), from `old` to `new` pixels."""

    axis: int
    old: int
    new: int


@dataclass(frozen=True)
class Crop:
    """Keep `size` (width, height) from (left, top). Pixels outside the picture are black."""

    left: int
    top: int
    size: tuple[int, int]


Step = Pass | Crop


def crop(frame: np.ndarray, steps: list[Step]) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3], after all steps. The last step is a crop."""
    height, width = frame.shape[:2]
    needs = _needs((width, height), steps)
    if needs is None:
        return np.asarray(_whole_frame(Image.fromarray(frame), steps))
    (left, right), (top, bottom) = spans = list(needs[0])
    part = frame[top:bottom, left:right]
    if all(isinstance(step, Crop) for step in steps):
        return part
    image = Image.fromarray(np.ascontiguousarray(part))
    for step, need in zip(steps, needs[1:], strict=True):
        if isinstance(step, Pass):
            image, spans[step.axis] = _one_pass(image, step, spans[step.axis], need[step.axis])
        else:
            spans = [(low - offset, high - offset) for (low, high), offset in zip(spans, (step.left, step.top), strict=True)]
        image, spans = _cut(image, spans, need), list(need)
    return np.asarray(image)


def _needs(size: tuple[int, int], steps: list[Step]) -> list[tuple[Span, Span]] | None:
    """The needed columns and rows before each step, and after the last step. None when a crop reaches outside the picture."""
    sizes = [size]
    for step in steps:
        whole = list(sizes[-1])
        if isinstance(step, Pass):
            whole[step.axis] = step.new
        else:
            if min(step.left, step.top) < 0 or step.left + step.size[0] > whole[0] or step.top + step.size[1] > whole[1]:
                return None
            whole = list(step.size)
        sizes.append((whole[0], whole[1]))
    need: list[Span] = [(0, sizes[-1][0]), (0, sizes[-1][1])]
    needs = [(need[0], need[1])]
    for step in reversed(steps):
        if isinstance(step, Pass):
            need[step.axis] = _read_by(step, need[step.axis])
        else:
            need = [(low + offset, high + offset) for (low, high), offset in zip(need, (step.left, step.top), strict=True)]
        needs.insert(0, (need[0], need[1]))
    return needs


def _read_by(step: Pass, wanted: Span) -> Span:
    """The span of old pixels that the wanted span of new pixels is computed from."""
    if step.old % step.new == 0:
        factor, margin = step.old // step.new, ceil(REACH) + 1
        return max(0, wanted[0] - margin) * factor, min(step.new, wanted[1] + margin) * factor
    scale = step.old / step.new
    reach = REACH * max(scale, 1.0) + 1
    return max(0, floor((wanted[0] + 0.5) * scale - reach)), min(step.old, ceil((wanted[1] - 0.5) * scale + reach))


def _one_pass(image: Image.Image, step: Pass, have: Span, wanted: Span) -> tuple[Image.Image, Span]:
    """The resized picture, and the span of new pixels that it holds. have: the span of old pixels in `image`."""
    at_once = max(1, MOST_PIXELS // max(step.old, step.new))
    if image.size[1 - step.axis] > at_once:
        return _in_strips(image, step, have, wanted, at_once), wanted
    if step.old % step.new == 0:
        factor = step.old // step.new
        computed = (have[0] // factor, have[1] // factor)
    else:
        computed = (0, step.new)
        if have != (0, step.old):  # paste the part into black lines of full length; no wanted pixel depends on the black ones
            size, corner = ((step.old, image.height), (have[0], 0)) if step.axis == 0 else ((image.width, step.old), (0, have[0]))
            whole = Image.new("RGB", size)
            whole.paste(image, corner)
            image = whole
    length = computed[1] - computed[0]
    size = (length, image.height) if step.axis == 0 else (image.width, length)
    return image.resize(size, Image.Resampling.BICUBIC), computed


def _in_strips(image: Image.Image, step: Pass, have: Span, wanted: Span, at_once: int) -> Image.Image:
    """The wanted span, computed `at_once` lines at a time. A frame of extreme aspect would need too much memory in one pass."""
    lines, length = image.size[1 - step.axis], wanted[1] - wanted[0]
    result = Image.new("RGB", (length, lines) if step.axis == 0 else (lines, length))
    for first in range(0, lines, at_once):
        last = min(first + at_once, lines)
        strip = image.crop((0, first, image.width, last) if step.axis == 0 else (first, 0, last, image.height))
        strip, (start, _) = _one_pass(strip, step, have, wanted)
        low, high = wanted[0] - start, wanted[1] - start
        kept = strip.crop((low, 0, high, strip.height) if step.axis == 0 else (0, low, strip.width, high))
        result.paste(kept, (0, first) if step.axis == 0 else (first, 0))
    return result


def _cut(image: Image.Image, spans: list[Span], need: tuple[Span, Span]) -> Image.Image:
    """The needed columns and rows of a picture that holds `spans`."""
    (left, right), (top, bottom) = need
    box = (left - spans[0][0], top - spans[1][0], right - spans[0][0], bottom - spans[1][0])
    return image if box == (0, 0, *image.size) else image.crop(box)


def _whole_frame(image: Image.Image, steps: list[Step]) -> Image.Image:
    """All steps on the whole picture."""
    for step in steps:
        if isinstance(step, Pass):
            size = (step.new, image.height) if step.axis == 0 else (image.width, step.new)
            image = image.resize(size, Image.Resampling.BICUBIC)
        else:
            image = image.crop((step.left, step.top, step.left + step.size[0], step.top + step.size[1]))
    return image
