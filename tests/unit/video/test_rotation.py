"""Phones store sideways pictures with a turn in the track's display matrix: frames come out upright, whoever reads them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import pllava
from pllava.stages.render.video_writer import write_mp4

ONE, ONE_W = 1 << 16, 1 << 30
MATRICES = {  # degrees clockwise: a b u c d v x y w of tkhd (ISO 14496-12), without the translation, which decoders do not need
    0: (ONE, 0, 0, 0, ONE, 0, 0, 0, ONE_W),
    90: (0, ONE, 0, -ONE, 0, 0, 0, 0, ONE_W),
    180: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, ONE_W),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 0, ONE_W),
}
TKHD_MATRIX = 4 + 4 + 36  # bytes from the name of the box: version and flags, times, id, duration, layer, volume ...


def corners() -> np.ndarray:
    """[H, W, 3] with a bright, a middle and a dark corner: no two turns look alike."""
    picture = np.zeros(
        (64, 128, 3), np.uint8
    )  # sides that decord reads on every processor: 48 and 96 fail where rows are aligned to 64 bytes
    picture[:16, :32], picture[:16, -32:], picture[-16:, :32] = 250, 160, 80
    return picture


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("degrees", MATRICES)
def test_frames_are_upright(tmp_path: Path, degrees: int, reader: str) -> None:
    upright = corners()
    stored = np.ascontiguousarray(np.rot90(upright, degrees // 90))  # turned against the clock, to be turned back when shown
    path = tmp_path / "phone.mp4"
    write_mp4(path, np.stack([stored] * 8), fps=8)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + TKHD_MATRIX
    assert struct.unpack(">9i", data[at : at + 36]) == MATRICES[0]
    data[at : at + 36] = struct.pack(">9i", *MATRICES[degrees])
    path.write_bytes(data)

    clip = pllava.read_video(path, num_frames=4, reader=reader)
    assert clip.reader == reader
    assert clip.frames.shape == (4, *upright.shape)
    assert np.abs(clip.frames[2].astype(int) - upright).mean() < 4
