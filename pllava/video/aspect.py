"""The two bicubic resizes before CLIP, on 8-bit pixels: to a working size, then to the tower's short side.

One clip is only scaled. Several clips of one sample are scaled and cropped to the aspect nearest to a square among them, each in its own
orientation, as the published preprocessing does. `steps` lists the passes along one axis and the crops for the frames of a clip;
`pllava.video.region` executes them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np

from pllava.video.region import Crop, Pass, Step, crop

Size = tuple[int, int]  # width, height

LONGEST = 640  # pixels; the published cap of the long side. It gives way where the short side would be smaller than the later crop


def working_size(sizes: list[tuple[int, int]], resolution: int) -> tuple[int, int]:
    """Short and long side, in pixels, for clips of these (width, height); `resolution`: side of the later crop."""
    aspect = min(max(size) / min(size) for size in sizes)
    longest = min(LONGEST, max(max(size) for size in sizes))
    short = min(max(min(size) for size in sizes), int(longest / aspect))
    short = max(short, resolution)
    return short, int(short * aspect)


def tower_pictures(clips: list[np.ndarray], resolution: int, size: Size, threads: int = 1) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] of each clip of ONE sample -> uint8 [T, h, w, 3], the tower's input before normalisation.

    resolution: the short side after the second resize. size: width and height of the centre crop. When width and height equal the
    resolution, a second call changes nothing.
    """
    sizes = [(clip.shape[2], clip.shape[1]) for clip in clips]
    pictures = []
    for number, clip in enumerate(clips):
        todo = steps(sizes, number, resolution, size)
        if all(step == Crop(0, 0, sizes[number]) for step in todo):  # the process that read the clip has made the pictures
            pictures.append(clip)
        elif threads > 1 and len(clip) > 1:
            with ThreadPoolExecutor(min(threads, len(clip))) as pool:  # Pillow releases the interpreter's lock
                pictures.append(np.stack(list(pool.map(crop, clip, repeat(todo)))))
        else:
            pictures.append(np.stack([crop(frame, todo) for frame in clip]))
    return pictures


def steps(sizes: list[Size], number: int, resolution: int, final: Size) -> list[Step]:
    """Resizes and crops that make the tower's picture of a frame of clip `number`. sizes: of the frames of each clip of the sample.

    resolution: the short side after the second resize. final: width and height of the centre crop.
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
    """Pillow's bicubic resize as one pass per axis, rounded to 8 bits after the first pass.

    The order of the axes changes pixels by one level. Pillow 13, the version of the recorded values, resizes the height first where the
    height shrinks by more than twice as many pixels as the width. Older versions always resize the width first. With explicit passes,
    every version of Pillow gives the same pixels.
    """
    (width, height), (new_width, new_height) = size, new
    shrink = height - new_height
    across, down = Pass(0, width, new_width), Pass(1, height, new_height)
    order = (down, across) if shrink > 0 and shrink > 2 * (width - new_width) else (across, down)
    return [step for step in order if step.old != step.new]


def _cover(size: Size, target: Size) -> list[Step]:
    """First resize: scale the frame to cover the working size, then crop the frame to the working size."""
    (width, height), (target_width, target_height) = size, target
    if width / height > target_width / target_height:
        scaled = (int(target_height * width / height), target_height)
    else:
        scaled = (target_width, int(target_width * height / width))
    # The published crop begins at a quarter of the excess pixels, not at half. A single clip has no excess.
    return [*passes(size, scaled), Crop((scaled[0] - target_width) // 4, (scaled[1] - target_height) // 4, target)]
