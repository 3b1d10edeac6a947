"""Clips whose frames show their own numbers, in any container and with any oddity: `make(path, "libx264", b_frames=2, cut=11)`.

The upper half of a frame is eight vertical cells, dark 0 or bright 1, the most significant bit left. The lower half is red left and
blue right. `make` returns the truth that it wrote: which number is on a player's screen from which second on. `number_of` reads a
frame's number.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

Picture = np.ndarray  # uint8 [H, W, 3], or [H, W, 4] with transparency
FORMATS = {"m2ts": "mpegts", "mpg": "mpeg"}  # where the muxer cannot be guessed from the name, or wrongly
SOUND = {"mp4": "aac", "flv": "libmp3lame", "webm": "libopus", "ts": "mp2", "m2ts": "mp2", "mpg": "mp2"}
EDIT_LISTS = ("mp4", "mov")  # containers that can hide frames
PIXELS = {
    "mjpeg": "yuvj420p",
    "prores_ks": "yuv422p10le",
    "qtrle": "rgb24",
    "png": "rgb24",
    "huffyuv": "yuv422p",
    "libx264rgb": "rgb24",
    "ffv1": "yuv420p",
}
ALPHA = {"qtrle": "argb", "png": "rgba", "prores_ks": "yuva444p10le", "ffv1": "yuva420p"}
WRONG = -1  # of a frame that is not upright, or without the colours
GROUND = (255, 255, 255)  # behind transparent pixels


@dataclass(frozen=True)
class Clip:
    """What a player shows: (number, second it appears at) of each frame, the second at which the last one ends, and the displayed size."""

    path: Path
    shown: list[tuple[int, float]]
    end: float
    width: int
    height: int
    transparent: bool = False

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.shown]

    @property
    def times(self) -> list[float]:
        return [second for _, second in self.shown]

    def on_screen(self, second: float) -> int:
        """The number on screen at a second of the player's clock: of the last frame that appears at or before it."""
        return self.numbers[max(0, bisect_right(self.times, second) - 1)]


def picture(number: int, width: int = 96, height: int = 64) -> Picture:
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        image[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 235 if number >> (7 - bit) & 1 else 20
    image[height // 2 :, : width // 2] = (220, 20, 20)
    image[height // 2 :, width // 2 :] = (20, 20, 220)
    return image


def see_through(image: Picture, rim: int = 0) -> Picture:
    """[H, W, 4]: the bottom quarter is transparent, but for `rim` pixels. What lies under it is black, as most programs write it."""
    height, width = image.shape[:2]
    opaque = np.full((height, width, 1), 255, np.uint8)
    opaque[height * 3 // 4 : height - rim, rim : width - rim] = 0
    return np.concatenate([np.where(opaque > 0, image, 0).astype(np.uint8), opaque], axis=2)


def number_of(frame: Picture) -> int:
    """The number that an upright frame shows; WRONG when red is not left or blue not right in the lower half."""
    height, width = frame.shape[:2]
    reach, rows = max(1, width // 32), slice(height // 4 - height // 16, height // 4 + height // 16 + 1)
    left, right = (frame[height * 5 // 8, column - reach : column + reach + 1].mean(0) for column in (width // 4, width * 3 // 4))
    if not (left[0] > 128 > max(left[1:]) and right[2] > 128 > max(right[:2])):
        return WRONG
    centres = [(2 * bit + 1) * width // 16 for bit in range(8)]
    return sum(int(frame[rows, column - reach : column + reach + 1].mean() > 128) << (7 - bit) for bit, column in enumerate(centres))


def is_on_white(frame: Picture) -> bool:
    """Whether the transparent quarter of a frame lies on the ground."""
    height, width = frame.shape[:2]
    return bool(np.abs(frame[height * 7 // 8, width // 8 : -(width // 8)].astype(int) - GROUND).max() < 24)


def make(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 24,
    size: tuple[int, int] = (96, 64),
    fps: Fraction | int = 10,
    gop: int = 8,
    b_frames: int = 0,
    open_gop: bool = False,
    turn: int = 0,
    mirror: bool = False,
    begins: float = 0.0,
    sound_first: float | None = None,
    cut: int = 0,
    edits: Sequence[tuple[int, int]] = (),
    holds: dict[int, int] | None = None,
    cover: bool = False,
    preview: bool = False,
    transparent: bool = False,
    delay: int = 0,
    **options: str,
) -> Clip:
    """Write a clip with PyAV.

    size: as displayed. turn, mirror: degrees clockwise, then left for right, which the player does to what is stored. begins: the first
    timestamp, seconds. sound_first: seconds between the beginnings of sound and picture. cut: frames cut off the front without encoding
    anew: the copy begins at the key frame before, and an edit list hides the rest where the container has edit lists. edits: the parts
    (first frame, frames) that an edit list shows. holds: by how many frame lengths a frame stays longer. cover, preview: a picture, or a
    small second video, is the first video stream. delay: frame lengths by which B-frames delay the picture where no edit list makes up for
    it. options: of the muxer.
    """
    kind, fps = path.suffix[1:], Fraction(fps)
    stays = {number: extra for number, extra in (holds or {}).items() if number < frames}
    ticks = [i + sum(extra for number, extra in stays.items() if number < i) for i in range(frames)]
    ends = [*ticks[1:], ticks[-1] + 1 + stays.get(frames - 1, 0)]
    with av.open(str(path), "w", format=FORMATS.get(kind), options=options) as container:
        first = _first_stream(container, cover and kind != "mkv", preview)
        stream = _video(container, codec, size, fps, gop, b_frames, open_gop, turn, mirror, transparent)
        if cover and kind == "mkv":
            container.add_attachment("cover.png", "image/png", _png(picture(255)))
        if preview or cover:
            stream.disposition = Disposition.default
        sound = None if sound_first is None else container.add_stream(SOUND.get(kind, "pcm_s16le"), rate=48000, layout="mono")
        if first is not None:
            _encode(container, first, [_frame(picture(254, first.width, first.height), n, Fraction(1)) for n in range(1 + preview)])
        if sound is not None:
            _silence(container, sound, begins, float((ends[-1] + 1) / fps) + (sound_first or 0))
        begin = round((begins + (sound_first or 0)) * fps)
        images = []
        for number, tick in enumerate(ticks):
            image = _stored(picture(number, *size), turn, mirror)
            images.append(_frame(see_through(image) if transparent else image, begin + tick, 1 / fps))
        _encode(container, stream, images, {begin + tick: end - tick for tick, end in zip(ticks, ends, strict=True)})
    if cover and kind in EDIT_LISTS:
        _put_tags_first(path)
    zero = (sound_first or 0.0) + float(delay / fps)
    shown = [(number, zero + float(tick / fps)) for number, tick in enumerate(ticks)]
    clip = Clip(path, shown, zero + float(ends[-1] / fps), *size, transparent)
    if cut:
        return _cut(clip, cut, fps)
    return _edited(clip, edits, fps) if edits else clip


def make_animation(
    path: Path,
    milliseconds: Sequence[int],
    *,
    size: tuple[int, int] = (96, 64),
    transparent: bool = False,
    rim: int = 0,
    hidden_first: bool = False,
) -> Clip:
    """An animated GIF, WebP, PNG or AVIF, by Pillow. hidden_first: an APNG's default picture, which is not part of the animation."""
    pictures = [picture(n, *size) for n in range(len(milliseconds))]
    images = [Image.fromarray(see_through(one, rim) if transparent else one) for one in pictures]
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    if path.suffix == ".gif":
        options = {"disposal": 2}
    if hidden_first:
        images, options = [Image.fromarray(picture(255, *size)), *images], {"default_image": True}
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(milliseconds), loop=0, **options)
    lengths = [(length or 100) / 1000 for length in milliseconds]  # browsers show a picture without a duration for 0.1 s
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    return Clip(path, list(enumerate(starts)), sum(lengths), *size, transparent)


def _stored(image: Picture, turn: int, mirror: bool) -> Picture:
    """The picture that a player turns and then mirrors into `image`."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirror else image, turn // 90))


def _video(
    container: Any,
    codec: str,
    size: tuple[int, int],
    fps: Fraction,
    gop: int,
    b_frames: int,
    open_gop: bool,
    turn: int,
    mirror: bool,
    transparent: bool,
) -> Any:
    options = {"threads": "1"}
    opened, steady = int(open_gop), "scenecut=0"
    if codec.startswith("libx264"):
        params = f"keyint={gop}:min-keyint={1 if open_gop else gop}:open-gop={opened}:{steady}:b-adapt=0"
        options |= {"preset": "veryfast", "crf": "12", "x264-params": params}
    elif codec == "libx265":
        b_frames = min(b_frames, gop - 1)
        params = f"keyint={gop}:min-keyint={gop}:bframes={b_frames}:open-gop={opened}:{steady}:b-adapt=0:pools=1:frame-threads=1"
        options |= {"preset": "ultrafast", "crf": "12", "x265-params": f"{params}:log-level=none"}
    elif codec == "libsvtav1":
        options |= {"preset": "10", "crf": "5", "svtav1-params": f"keyint={gop}:irefresh-type={1 if open_gop else 2}:lp=1"}
    elif codec.startswith("libvpx"):  # a hidden reference frame stands for B-frames here
        options |= {"auto-alt-ref": str(int(b_frames > 0)), "lag-in-frames": str(8 * (b_frames > 0)), "deadline": "good", "cpu-used": "5"}
    elif not open_gop and codec in ("mpeg4", "mpeg1video", "mpeg2video"):
        options |= {"flags": "+cgop", "sc_threshold": "1000000000"}
    stream = container.add_stream(codec, rate=fps, options=options)
    width, height = size if turn % 180 == 0 else size[::-1]
    stream.width, stream.height = width, height
    stream.pix_fmt = ALPHA[codec] if transparent else PIXELS.get(codec, "yuv420p")
    stream.gop_size, stream.bit_rate = gop, 0 if codec.startswith(("libx26", "libsvt")) else 3_000_000
    if codec in ("libx264", "mpeg4", "mpeg1video", "mpeg2video"):
        stream.codec_context.max_b_frames = min(b_frames, gop - 1)
    if turn or mirror:
        one, (a, b, c, d) = 1 << 16, {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[turn]
        flip = -one if mirror else one
        stream.set_display_matrix([a * flip, b * one, 0, c * flip, d * one, 0, 0, 0, 1 << 30])
    return stream


def _first_stream(container: Any, cover: bool, preview: bool) -> Any:
    """A picture, a small video, or None."""
    if not (cover or preview):
        return None
    stream = container.add_stream("png" if cover else "mpeg4", rate=1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24" if cover else "yuv420p"
    if cover:
        stream.disposition = Disposition.attached_pic
    return stream


def _frame(image: Picture, pts: int, time_base: Fraction) -> Any:
    frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
    frame.pts, frame.time_base = pts, time_base
    return frame


def _encode(container: Any, stream: Any, frames: Sequence[Any], lengths: dict[int, int] | None = None) -> None:
    """lengths: of the frames that stay longer than one tick, by timestamp. An encoder does not know how long the last one stays."""
    for frame in (*frames, None):
        for packet in stream.encode(frame):
            if lengths and lengths.get(packet.pts, 1) > 1:
                packet.duration = lengths[packet.pts]
            container.mux(packet)


def _png(image: Picture) -> bytes:
    from io import BytesIO

    out = BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def _silence(container: Any, stream: Any, begins: float, seconds: float) -> None:
    block = 1024
    for n in range(max(1, round(seconds * 48000 / block))):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, block), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, round(begins * 48000) + n * block, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _cut(clip: Clip, cut: int, fps: Fraction) -> Clip:
    """As `ffmpeg -ss SECONDS -i FILE -c copy` does it: packets from the key frame before the cut on, with times below 0 before the cut."""
    whole = clip.path.with_stem("whole")
    clip.path.rename(whole)
    kind = clip.path.suffix[1:]
    with av.open(str(whole)) as source, av.open(str(clip.path), "w", format=FORMATS.get(kind)) as target:
        stream = source.streams.video[0]
        copies = {one.index: target.add_stream_from_template(one) for one in source.streams}
        everything = [packet for packet in source.demux() if packet.size]
        packets = [packet for packet in everything if packet.stream_index == stream.index]
        zero, unit = min(packet.pts for packet in packets), packets[0].time_base
        shift = zero + round((clip.times[cut] - clip.times[0]) / unit)
        key = max((packet for packet in packets if packet.is_keyframe and packet.pts <= shift), key=lambda packet: packet.pts)
        begin = key.pts * unit
        first_kept = bisect_right(clip.times, float(begin - zero * unit) + clip.times[0] + 1e-3) - 1
        for packet in [*packets[packets.index(key) :], *(one for one in everything if one.stream_index != stream.index)]:
            back, packet.stream = round(shift * unit / packet.time_base), copies[packet.stream_index]
            if packet.stream is not copies[stream.index] and packet.pts * packet.time_base < begin:
                continue
            packet.pts, packet.dts = packet.pts - back, None if packet.dts is None else packet.dts - back
            target.mux(packet)
    whole.unlink()
    first = cut if kind in EDIT_LISTS else first_kept
    shown = [(number, second - clip.times[first]) for number, second in clip.shown[first:]]
    return replace(clip, shown=shown, end=clip.end - clip.times[first])


def _edited(clip: Clip, edits: Sequence[tuple[int, int]], fps: Fraction) -> Clip:
    """Show only the parts (first frame, frames) of an MP4, one after the other."""
    data = bytearray(clip.path.read_bytes())
    [moov] = _boxes(data, 0, len(data), b"moov")
    [mvhd] = _boxes(data, moov[0] + 8, moov[1], b"mvhd")
    [trak] = _boxes(data, moov[0] + 8, moov[1], b"trak")
    [edts] = _boxes(data, trak[0] + 8, trak[1], b"edts")
    [mdia] = _boxes(data, trak[0] + 8, trak[1], b"mdia")
    [mdhd] = _boxes(data, mdia[0] + 8, mdia[1], b"mdhd")
    movie_scale, track_scale = (struct.unpack_from(">I", data, box[0] + 20)[0] for box in (mvhd, mdhd))
    [elst] = _boxes(data, edts[0] + 8, edts[1], b"elst")
    begin = struct.unpack_from(">i", data, elst[0] + 20)[0]  # the media time of the first frame
    body, shown, second = b"", [], 0.0
    for first, count in edits:
        body += struct.pack(">Iihh", round(count / fps * movie_scale), begin + round(first / fps * track_scale), 1, 0)
        shown += [(number, second + float((number - first) / fps)) for number in range(first, first + count)]
        second += float(count / fps)
    new = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(edits)) + body
    grown = len(new) - (elst[1] - elst[0])
    data[elst[0] : elst[1]] = new
    for box in (moov, trak, edts):
        struct.pack_into(">I", data, box[0], box[1] - box[0] + grown)
    clip.path.write_bytes(data)
    return replace(clip, shown=shown, end=second)


def _put_tags_first(path: Path) -> None:
    """Put the tags, which hold the cover, before the tracks: the cover becomes the first stream."""
    data = path.read_bytes()
    [moov] = _boxes(data, 0, len(data), b"moov")
    [tags] = _boxes(data, moov[0] + 8, moov[1], b"udta")
    track = _boxes(data, moov[0] + 8, moov[1], b"trak")[0][0]
    path.write_bytes(data[:track] + data[tags[0] : tags[1]] + data[track : tags[0]] + data[tags[1] :])


def _boxes(data: bytes | bytearray, begin: int, end: int, name: bytes) -> list[tuple[int, int]]:
    """(begin, end) of the boxes of a name between two bytes."""
    boxes = []
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        if size < 8:
            break
        if kind == name:
            boxes.append((begin, begin + size))
        begin += size
    return boxes
