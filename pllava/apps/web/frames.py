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


def strip(video: VideoFrames, pooling_shape: tuple[int, int, int]) -> str:
    """HTML with a picture and a time for each frame, and the number of visual tokens. pooling_shape: (t, h, w), in tokens."""
    t, h, w = pooling_shape
    pictures = "".join(
        f'<figure><img src="{_data_uri(frame)}" alt="frame {index} at {time:.2f} s"><figcaption>{time:.2f} s</figcaption></figure>'
        for frame, time, index in zip(video.frames, video.times, video.indices, strict=True)
    )
    height, width = video.frames.shape[1:3]
    read = f"{video.duration:.1f} s, {width} x {height}, read by {html.escape(video.read_by)}"
    tokens = f"{t} x {h} x {w} = <b>{t * h * w:,} visual tokens</b>"
    facts = f"<b>{len(video.frames)} frames</b> of {video.num_frames_total} ({read}) become {tokens}"
    return f'<div class="strip" tabindex="0" role="group" aria-label="sampled frames">{pictures}</div><p class="facts">{facts}</p>'


def thumbnail(frame: np.ndarray, height: int = HEIGHT) -> Image.Image:
    """The frame (uint8 [H, W, 3]) as a picture `height` pixels high and at most MOST_WIDTH wide. The aspect ratio stays."""
    image = Image.fromarray(frame)
    scale = min(height / image.height, MOST_WIDTH / image.width)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)


def _data_uri(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    thumbnail(frame).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
