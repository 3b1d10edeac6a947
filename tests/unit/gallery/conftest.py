"""Clips of every kind the gallery shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gallery_results import write_h264
from PIL import Image


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """video/0.mp4 to 2.mp4 (H.264), old.avi (MPEG-4), loop.gif, frames/1.jpg ...; beside the folder, secret.mp4."""
    import av

    root = tmp_path_factory.mktemp("media") / "root"
    for seed in range(3):
        write_h264(root / "video" / f"{seed}.mp4", seed)
    write_h264(root.parent / "secret.mp4", 5)
    with av.open(str(root / "video/old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for shade in range(8):
            picture = np.full((64, 64, 3), 20 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    pictures = [Image.new("RGB", (64, 48), (40 * n, 0, 0)) for n in range(4)]
    pictures[0].save(root / "video/loop.gif", save_all=True, append_images=pictures[1:], duration=100)
    (root / "video/frames").mkdir()
    for number, picture in enumerate(pictures, 1):
        picture.save(root / f"video/frames/{number:05d}.jpg")
    return root
