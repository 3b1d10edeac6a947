"""The two bicubic resizes before CLIP, on 8-bit pixels: to a working size, then to the tower's short side.

One clip is only scaled. Several clips of one sample are scaled and cropped to the least stretched aspect among them,
each in its own orientation. All as the published preprocessing does. `steps` says what is done to a clip's frames, as passes along
one axis and crops; `pllava.video.region` carries them out.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np

from pllava.video.region import Crop, Pass, Step, crop

Size = tuple[int, int]  # width, height

LONGEST = 640  # pixels; the published cap, which yields where the short side would fall below the crop


def working_size(sizes: list[tuple[int, int]], resolution: int) -> tuple[int, int]:
    """Short and long side, in pixels, for clips of these (width, height); `resolution`: side of the later crop."""
    aspect = min(max(size) / min(size) for size in sizes)
    longest = min(LONGEST, max(max(size) for size in sizes))
    short = min(max(min(size) for size in sizes), int(longest / aspect))
    short = max(short, resolution)
    return short, int(short * aspect)


def tower_pictures(clips: list[np.ndarray], resolution: int, size: Size, threads: int = 1) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] of each clip of ONE sample -> uint8 [T, h, w, 3], what the tower is shown, before normalisation.

    resolution: the short side after the second resize. size: width and height of the crop from its centre. Where both are the same,
    a second call changes nothing.
    """
    sizes = [(clip.shape[2], clip.shape[1]) for clip in clips]
    made = []
    for number, clip in enumerate(clips):
        todo = steps(sizes, number, resolution, size)
        if all(step == Crop(0, 0, sizes[number]) for step in todo):  # made already, by who has read the clip
            made.append(clip)
        elif threads > 1 and len(clip) > 1:
            with ThreadPoolExecutor(min(threads, len(clip))) as pool:  # Pillow works outside Python's lock
                made.append(np.stack(list(pool.map(crop, clip, repeat(todo)))))
        else:
            made.append(np.stack([crop(frame, todo) for frame in clip]))
    return made


def steps(sizes: list[Size], number: int, resolution: int, final: Size) -> list[Step]:
    """What makes the tower's picture of a frame of clip `number` among the clips of one sample. sizes: of the clips' frames.

    resolution: the short side after the second resize. final: what the tower sees of it, from the centre.
    """
    size = sizes[number]
    short, long = working_size(sizes, resolution)
    width, height = target = (long, short) if size[0] > size[1] else (short, long)
    done = _cover(size, target)
    short, long = sorted((width, height))
    other = int(resolution * long / short)  # the long side is truncated to a whole pixel
    scaled = (resolution, other) if width <= height else (other, resolution)
    done += passes((width, height), scaled)
    return [*done, Crop((scaled[0] - final[0]) // 2, (scaled[1] - final[1]) // 2, final)]


def passes(size: Size, new: Size) -> list[Step]:
    """Pillow's bicubic, one axis after the other, rounded to 8 bits between.

    Which axis goes first changes pixels by one level. Pillow 13, which the recorded values were made with, takes the height first where
    it shrinks by more than twice as many pixels as the width; older versions never do. Spelled out, every version gives the same.
    """
    (width, height), (new_width, new_height) = size, new
    shrink = height - new_height
    across, down = Pass(0, width, new_width), Pass(1, height, new_height)
    order = (down, across) if shrink > 0 and shrink > 2 * (width - new_width) else (across, down)
    return [step for step in order if step.old != step.new]


def _cover(size: Size, target: Size) -> list[Step]:
    """First resize: the frame covers the working size, and what sticks out is cut off."""
    (width, height), (target_width, target_height) = size, target
    if width / height > target_width / target_height:
        scaled = (int(target_height * width / height), target_height)
    else:
        scaled = (target_width, int(target_width * height / width))
    # The published crop begins at a quarter of what sticks out, not at half of it. One clip alone has nothing to cut.
    return [*passes(size, scaled), Crop((scaled[0] - target_width) // 4, (scaled[1] - target_height) // 4, target)]
