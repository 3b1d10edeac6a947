"""Clips read with Pillow: an animated GIF, a folder of numbered frames (3 a second, as in TVQA), or a still image."""

from __future__ import annotations

import struct
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

FOLDER_FPS = 3.0
FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MAGIC = {b"\x89PNG": "image", b"\xff\xd8\xff": "image", b"GIF8": "gif", b"BM": "image", b"II*\0": "image", b"MM\0*": "image"}
EXTENSION, PICTURE, END = 0x21, 0x2C, 0x3B  # the first byte of a block in a GIF
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def kind_of(path: Path) -> str:
    """ "folder", "gif", "image" or "video": by the first bytes of the file, not by its name."""
    if path.is_dir():
        return "folder"
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image"
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "video")


class ImageSource:
    """One still image: a clip of one frame, at time 0."""

    reader = "pillow"
    first_index = 0

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.width, self.height = _size(path, limits)
        self.fps, self.times, self.duration = 1.0, np.zeros(1), 0.0

    def get(self, indices: list[int]) -> np.ndarray:
        return np.stack([_rgb(self.path)] * len(indices))


class FolderSource:
    """`00001.jpg`, `00002.jpg`, ...: frame numbers are the file names, beginning with 1."""

    reader = "pillow"
    first_index = 1
    fps = FOLDER_FPS

    def __init__(self, path: Path, limits: Limits) -> None:
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in FRAME_SUFFIXES and f.stem.isdecimal() and f.is_file()]
        self.files = {int(f.stem): f for f in files}
        if not files:
            raise PllavaError(f"{path}: no numbered frames in this folder (00001.jpg, 00002.jpg, ...)")
        missing = sorted(set(range(1, len(files) + 1)) - self.files.keys())
        if missing:
            raise PllavaError(f"{path}: {len(files)} frames, but number {missing[0]} is missing. Frames are numbered from 1 without gaps")
        limits.check_bytes(path, sum(f.stat().st_size for f in files))
        self.path, self.limits = path, limits
        self.width, self.height = _size(self.files[1], limits)
        self.times = np.arange(len(files)) / FOLDER_FPS
        self.duration = len(files) / FOLDER_FPS
        limits.check_header(path, self.width, self.height, len(files), self.duration)

    def get(self, indices: list[int]) -> np.ndarray:
        frames = []
        for index in indices:
            if _size(self.files[index], self.limits) != (self.width, self.height):
                raise PllavaError(f"{self.files[index]}: size differs from that of the first frame, {self.width}x{self.height}")
            frames.append(_rgb(self.files[index]))
        return np.stack(frames)


class GifSource:
    """An animated GIF. Times come from the file; a frame without a duration lasts 0.1 s, as in browsers."""

    reader = "pillow"
    first_index = 0

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.width, self.height = _size(path, limits)
        check_gif(path, limits)
        durations = []
        try:
            with Image.open(path) as gif:
                # Check the limits after every frame: a hostile file must not be counted to its end.
                while True:
                    durations.append((gif.info.get("duration") or 100) / 1000)  # milliseconds
                    limits.check_header(path, self.width, self.height, len(durations), 0)
                    limits.check_work(path, 2 * len(durations), *gif.size)
                    try:
                        gif.seek(len(durations))
                    except EOFError:
                        break
        except UNREADABLE as error:
            raise PllavaError(f"{path}: not a readable GIF ({error}). Replace the file") from error
        self.duration = sum(durations)
        self.times = np.concatenate([[0.0], np.cumsum(durations)[:-1]])
        self.fps = len(durations) / self.duration
        limits.check_header(path, self.width, self.height, len(durations), self.duration)

    def get(self, indices: list[int]) -> np.ndarray:
        frames: dict[int, np.ndarray] = {}
        try:
            with Image.open(self.path) as gif:
                for index in sorted(set(indices)):  # a frame of a GIF builds on the frame before it, so decoding goes forwards
                    gif.seek(index)
                    frames[index] = np.asarray(gif.convert("RGB"))
        except UNREADABLE as error:
            raise PllavaError(f"{self.path}: frame {len(frames)} of the GIF does not decode ({error}). Replace the file") from error
        return np.stack([frames[index] for index in indices])


def check_gif(path: Path, limits: Limits) -> None:
    """Raises PllavaError when decoding all frames twice (once to count, once to return them) exceeds the limits.

    A frame of 23 bytes decodes to the size of the screen, so the frames are counted by their headers, without decoding. A damaged file
    passes this check; the decoder reports the damage.
    """
    with (
        path.open("rb") as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as data,
        suppress(struct.error, IndexError),
    ):  # cut off
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at, count = 13 + _palette(flags), 0
        while data[at] != END:
            if data[at] not in (EXTENSION, PICTURE):
                at += 1  # skip an unknown byte, as Pillow does
                continue
            if data[at] == PICTURE:
                left, top, wide, high, flags = struct.unpack_from("<4HB", data, at + 1)
                width, height, count = max(width, left + wide), max(height, top + high), count + 1
                limits.check_header(path, width, height, count, 0)
                limits.check_work(path, 2 * count, width, height)
                at += 11 + _palette(flags)
            else:
                at += 2
            while data[at]:  # sub-blocks: a byte with the length, then the data
                at += data[at] + 1
            at += 1


def _palette(flags: int) -> int:
    """Bytes of the colour table, 0 without one. flags: of the screen or of a frame."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _size(path: Path, limits: Limits) -> tuple[int, int]:
    """Width and height as displayed, from the header alone."""
    limits.check_bytes(path, path.stat().st_size)
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation 5 to 8: a quarter turn
    except UNREADABLE as error:
        raise PllavaError(f"{path}: not a readable image ({error}). Replace the file") from error
    limits.check_header(path, width, height, 1, 0)
    return (height, width) if is_turned else (width, height)


def _rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], turned as the EXIF orientation states."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # 16 bits a pixel: Pillow would clip the values to 255 instead of scaling them
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
    except UNREADABLE as error:
        raise PllavaError(f"{path}: the image does not decode ({error}). Replace the file") from error
