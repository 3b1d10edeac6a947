"""Clips read with Pillow: animations (GIF, WebP, PNG, AVIF), folders of numbered frames (3 a second, as in TVQA), and still images.

Of a file with several pictures that is no animation (MPO, TIFF, ICO), the clip is the first picture that Pillow shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

FOLDER_FPS = 3.0
FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\1\0", b"8BPS", b"icns")
ANIMATED = ("WEBP", "PNG", "AVIF")  # Pillow's formats whose several pictures follow in time; a GIF always counts as an animation
EXTENSION, PICTURE, END = 0x21, 0x2C, 0x3B  # the first byte of a block in a GIF
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def kind_of(path: Path) -> str:
    """ "folder", "animation", "image" or "video": by the content of the file, not by its name."""
    if path.is_dir():
        return "folder"
    with path.open("rb") as file:
        head = file.read(64)
    is_webp, is_avif = head[:4] == b"RIFF" and head[8:12] == b"WEBP", head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head)
    if not (head.startswith(PICTURES) or is_webp or is_avif):
        return "video"
    if head.startswith(b"GIF8"):
        return "animation"
    with suppress(*UNREADABLE), Image.open(path) as image:  # what is damaged is reported when it is read
        if image.format in ANIMATED and getattr(image, "is_animated", False):
            return "animation"
    return "image"


class ImageSource:
    """One still image: a clip of one frame, at time 0."""

    reader, why = "pillow", ""
    first_index = 0

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.width, self.height = _size(path, limits)
        self.fps, self.times, self.duration = 1.0, np.zeros(1), 0.0

    def get(self, indices: list[int]) -> np.ndarray:
        return np.stack([_picture(self.path)] * len(indices))


class FolderSource:
    """`00001.jpg`, `00002.jpg`, ...: frame numbers are the file names, beginning with 1."""

    reader, why = "pillow", ""
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
            frames.append(_picture(self.files[index]))
        return np.stack(frames)


class AnimationSource:
    """An animated picture. Times come from the file; a frame without a duration lasts 0.1 s, as in browsers."""

    reader, why = "pillow", ""
    first_index = 0

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.is_gif = check_animation(path, limits) == "GIF"
        self.width, self.height = _size(path, limits)
        spans = [(start, end) for _, start, end in animation(path, limits)]
        self.times, self.duration = np.asarray([start for start, _ in spans]), spans[-1][1]
        self.fps = len(spans) / self.duration
        limits.check_header(path, self.width, self.height, len(spans), self.duration)

    def get(self, indices: list[int]) -> np.ndarray:
        wanted, frames = set(indices), {}
        for number, (image, _, _) in enumerate(animation(self.path, self.limits)):  # a frame builds on the one before it
            if number in wanted:
                frames[number] = rgb(image)
            if len(frames) == len(wanted):
                break
        return np.stack([frames[index] for index in indices])


def animation(path: Path, limits: Limits) -> Iterator[tuple[Image.Image, float, float]]:
    """Each frame with its start and end in seconds. Checks the limits at every frame: a hostile file must not be counted to its end."""
    number, start = 0, 0.0
    try:
        with Image.open(_with_alpha(path)) as image:
            skipped = 1 if getattr(image, "default_image", False) else 0  # a PNG's picture for programs that show no animation
            while True:
                try:
                    image.seek(number + skipped)
                except EOFError:
                    if number:
                        return
                    raise
                number += 1
                limits.check_header(path, *image.size, number, 0)
                limits.check_work(path, 2 * number, *image.size)
                image.load()
                end = start + (image.info.get("duration") or 100) / 1000  # milliseconds
                yield image, start, end
                start = end
    except UNREADABLE as error:
        raise PllavaError(f"{path}: frame {number} of the animation does not decode ({error}). Replace the file") from error


def _with_alpha(path: Path) -> Path | BytesIO:
    """The file to decode. An animated WebP whose frames are opaque may still leave parts of its canvas empty, that is, transparent."""
    with path.open("rb") as file:
        if file.read(16)[8:] != b"WEBPVP8X":
            return path
        file.seek(0)
        data = bytearray(file.read())
    data[20:21] = bytes([data[20] | 0x10])  # the flag without which Pillow drops transparency
    return BytesIO(data)


def check_animation(path: Path, limits: Limits) -> str:
    """Pillow's name of the format. Raises PllavaError when decoding all frames twice (once to count, once to return) exceeds the limits."""
    limits.check_bytes(path, path.stat().st_size)
    try:
        with Image.open(path) as image:
            if image.format != "GIF":
                limits.check_header(path, *image.size, count := getattr(image, "n_frames", 1), 0)
                limits.check_work(path, 2 * count, *image.size)
            name = str(image.format)
    except UNREADABLE as error:
        raise PllavaError(f"{path}: not a readable image ({error}). Replace the file") from error
    if name == "GIF":
        _check_gif(path, limits)
    return name


def _check_gif(path: Path, limits: Limits) -> None:
    """Check the limits of a GIF.

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


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return rgb(image)
    except UNREADABLE as error:
        raise PllavaError(f"{path}: the image does not decode ({error}). Replace the file") from error


def rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3], turned as the EXIF orientation states, on white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16 bits a pixel: Pillow would clip the values to 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
