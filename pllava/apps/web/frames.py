"""The frames that the model saw, as HTML: a strip of pictures with their times."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

    from pllava.video.frames import VideoFrames

HEIGHT = 96  # pixels, of a picture in the strip
MOST_WIDTH = 12 * HEIGHT  # pixels; a picture that would be wider gets a smaller height


def strip(video: VideoFrames, pooling_shape: tuple[int, int, int], playable: bool = False) -> str:
    """HTML with a picture and a time for each frame, and the number of visual tokens. pooling_shape: (t, h, w), in tokens.

    playable: each frame is a button; the page's script moves the player to its time.
    """
    t, h, w = pooling_shape
    height, width = video.frames.shape[1:3]
    tokens = f"{t} x {h} x {w} = <b>{t * h * w:,} visual tokens</b>"
    if video.num_frames_total == 1:
        pictures = f'<figure><img src="{_data_uri(video.frames[0])}" alt="the image as the model sees it"></figure>'
        facts = f"<b>One image</b> ({width} x {height}, read by {html.escape(video.read_by)}), pooled into {tokens}"
    else:
        pictures = "".join(
            _figure(frame, float(time), index, playable)
            for frame, time, index in zip(video.frames, video.times, video.indices, strict=True)
        )
        read = f"{video.duration:.1f} s, {width} x {height}, read by {html.escape(video.read_by)}"
        number = "1 frame" if len(video.frames) == 1 else f"{len(video.frames)} frames"
        facts = f"<b>{number}</b> of {video.num_frames_total} ({read}), pooled into {tokens}"
    focus = "" if playable else ' tabindex="0"'
    return f'<div class="strip"{focus} role="group" aria-label="sampled frames">{pictures}</div><p class="facts">{facts}</p>'


def _figure(frame: np.ndarray, time: float, index: int, playable: bool) -> str:
    picture = f'<img src="{_data_uri(frame)}" alt="frame {index} at {time:.2f} s">'
    if playable:
        picture = f'<button type="button" title="Show in the player">{picture}</button>'
    return f'<figure data-seconds="{time:.3f}">{picture}<figcaption>{time:.2f} s</figcaption></figure>'


def thumbnail(frame: np.ndarray, height: int = HEIGHT) -> Image.Image:
    """The frame (uint8 [H, W, 3]) as a picture `height` pixels high and at most MOST_WIDTH wide. The aspect ratio stays."""
    image = Image.fromarray(frame)
    scale = min(height / image.height, MOST_WIDTH / image.width)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)


def _data_uri(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    thumbnail(frame).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
