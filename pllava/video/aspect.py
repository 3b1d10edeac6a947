"""The two bicubic resizes before CLIP, on 8-bit pixels: to a working size, then to the tower's short side.

One clip is only scaled. Several clips of one sample are scaled and cropped to the least stretched aspect among them,
each in its own orientation. All as the published preprocessing does.
"""

from __future__ import annotations

from PIL import Image

LONGEST = 640  # pixels; the published cap, which yields where the short side would fall below the crop


def working_size(sizes: list[tuple[int, int]], resolution: int) -> tuple[int, int]:
    """Short and long side, in pixels, for clips of these (width, height); `resolution`: side of the later crop."""
    aspect = min(max(size) / min(size) for size in sizes)
    longest = min(LONGEST, max(max(size) for size in sizes))
    short = min(max(min(size) for size in sizes), int(longest / aspect))
    short = max(short, resolution)
    return short, int(short * aspect)


def fit_together(clips: list[list[Image.Image]], resolution: int) -> list[list[Image.Image]]:
    """First resize: the frames of each clip cover the working size, and what sticks out is cut off."""
    short, long = working_size([clip[0].size for clip in clips], resolution)
    fitted = []
    for clip in clips:
        width, height = clip[0].size
        target = (long, short) if width > height else (short, long)
        fitted.append([_cover(frame, *target) for frame in clip])
    return fitted


def shortest_edge(image: Image.Image, resolution: int) -> Image.Image:
    """Second resize: the short side becomes `resolution`, the long side is truncated to a whole pixel."""
    short, long = sorted(image.size)
    other = int(resolution * long / short)
    return bicubic(image, (resolution, other) if image.width <= image.height else (other, resolution))


def bicubic(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pillow's bicubic, one axis after the other, rounded to 8 bits between.

    Which axis goes first changes pixels by one level. Pillow 13, which the recorded values were made with, takes the height first where
    it shrinks by more than twice as many pixels as the width; older versions never do. Spelled out, every version gives the same.
    """
    (width, height), (new_width, new_height) = image.size, size
    shrink = height - new_height
    first = (width, new_height) if shrink > 0 and shrink > 2 * (width - new_width) else (new_width, height)
    for step in (first, size):
        if step != image.size:
            image = image.resize(step, Image.Resampling.BICUBIC)
    return image


def _cover(frame: Image.Image, width: int, height: int) -> Image.Image:
    if frame.width / frame.height > width / height:
        scaled = (int(height * frame.width / frame.height), height)
    else:
        scaled = (width, int(width * frame.height / frame.width))
    frame = bicubic(frame, scaled)
    # The published crop begins at a quarter of what sticks out, not at half of it. One clip alone has nothing to cut.
    left, top = (scaled[0] - width) // 4, (scaled[1] - height) // 4
    return frame.crop((left, top, left + width, top + height))
