"""Every door sees the same clip: the frames, times and length that a player shows, whatever the container, the codec and the oddity.

The rows of the table in docs/data.md are the tests. `PLLAVA_CLIPS=500 PLLAVA_CLIPS_SEED=1 pytest tests/unit/video/test_every_clip.py`
draws 500 other clips.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from numbered_clips import EDIT_LISTS, Clip, is_on_white, make, make_animation, number_of
from PIL import Image

from pllava.apps.demo.engine import ChatEngine
from pllava.apps.serve.files import Files
from pllava.apps.serve.settings import ServeSettings
from pllava.chat import VideoChat
from pllava.core.errors import PllavaError
from pllava.stages.prepare.media import WHOLE, MediaJob, check_media
from pllava.video.frames import VideoFrames
from pllava.video.reader import probe, read_video
from pllava.video.readers import Readers
from pllava.video.stream import FrameStream

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
DRAWN = int(os.environ.get("PLLAVA_CLIPS", "16"))  # clips of the random test
SAMPLINGS = ("eval", "demo", "middle", "rand", "fps4")
LATE = 0.03  # seconds: the codec of a sound may begin so much earlier than the sound
ENCODERS = {
    "H.264": "libx264",
    "HEVC": "libx265",
    "AV1": "libsvtav1",
    "VP8": "libvpx",
    "VP9": "libvpx-vp9",
    "MPEG-1": "mpeg1video",
    "MPEG-2": "mpeg2video",
    "MPEG-4": "mpeg4",
    "Motion JPEG": "mjpeg",
    "ProRes": "prores_ks",
    "FFV1": "ffv1",
    "HuffYUV": "huffyuv",
    "Animation": "qtrle",
    "PNG": "png",
    "WMV2": "wmv2",
    "FLV1": "flv",
    "raw": "wrapped_avframe",
}
ODDITIES: dict[str, dict[str, Any]] = {
    "": {},
    "B-frames": {"b_frames": 2},
    "hidden reference frames": {"b_frames": 1},
    "open GOP": {"b_frames": 2, "open_gop": True},
    "one GOP": {"gop": 250, "b_frames": 2},
    "fragments": {"b_frames": 2, "movflags": "frag_keyframe+empty_moov"},
    "index first": {"b_frames": 2, "movflags": "faststart"},
    "turned 90": {"turn": 90, "size": (320, 192)},
    "turned 180": {"turn": 180, "size": (320, 192)},
    "turned 270": {"turn": 270, "b_frames": 2},
    "mirrored": {"mirror": True, "size": (320, 192)},
    "turned 90, mirrored": {"turn": 90, "mirror": True},
    "turned 180, mirrored": {"turn": 180, "mirror": True, "b_frames": 2},
    "turned 270, mirrored": {"turn": 270, "mirror": True, "size": (320, 192)},
    "begins at 100 s": {"begins": 100, "b_frames": 2},
    "sound 2 s before the picture": {"sound_first": 2.0, "b_frames": 2},
    "sound": {"sound_first": 0.0, "b_frames": 2},
    "cut without encoding": {"cut": 13, "b_frames": 2, "size": (320, 192)},
    "cut without encoding, sound": {"cut": 13, "b_frames": 2, "sound_first": 0.0},
    "no edit list": {"b_frames": 2, "sound_first": 0.0, "use_editlist": "0", "delay": 2},
    "negative offsets": {"b_frames": 2, "movflags": "negative_cts_offsets"},
    "without index": {"b_frames": 2, "live": "1"},
    "fragments, sound": {"b_frames": 2, "sound_first": 0.0, "movflags": "frag_keyframe+empty_moov", "delay": 2},
    "two parts of an edit list": {"edits": ((3, 6), (14, 8)), "b_frames": 2},
    "a frame stays 2 s": {"holds": {7: 20}, "b_frames": 2},
    "the first frames stay long": {"frames": 8, "holds": {0: 7, 1: 25}},
    "the last frame stays 2 s": {"holds": {23: 20}},
    "cover art": {"cover": True},
    "preview track": {"preview": True},
    "transparent": {"transparent": True},
}
ANIMATIONS: dict[str, dict[str, Any]] = {
    "animation": {},
    "transparent animation": {"transparent": True},
    "animation without durations": {"milliseconds": [0] * 8},
    "transparent inside": {"transparent": True, "rim": 2},
    "another default picture": {"hidden_first": True},
}
STILLS = ("several pages", "picture", "transparent picture")
Row = tuple[str, str, str, str]  # name ending, codec, oddity, reader


def table() -> list[Row]:
    """The rows of docs/data.md, one for each container and codec that a row names."""
    part = PAGE.read_text().partition("| container | codec | oddity | reader |")[2].partition("\n\n")[0]
    rows = []
    for line in part.splitlines()[2:]:
        containers, codecs, oddity, reader, *_ = [cell.strip() for cell in line.strip("|").split("|")]
        rows += [(c, codec, oddity, reader) for c in re.findall(r"`\.(\w+)`", containers) for codec in codecs.split(", ")]
    return rows


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    """The pool of reading processes, as `prepare`, the demo and the server have it."""
    with Readers(1) as pool:
        yield pool


def make_row(folder: Path, kind: str, codec: str, oddity: str) -> Clip:
    path = folder / f"clip.{kind}"
    if oddity in ANIMATIONS:
        return make_animation(path, **{"milliseconds": [100, 100, 200, 100, 500, 100, 100, 100], **ANIMATIONS[oddity]})
    if oddity in STILLS:
        return make_still(path, oddity)
    rate = {"MPEG-1": 25, "MPEG-2": 25}.get(codec, 25 if kind in ("h264", "obu") else 10)  # without times: as FFmpeg takes them
    return make(path, ENCODERS[codec], fps=rate, **ODDITIES[oddity])


def make_still(path: Path, oddity: str) -> Clip:
    from numbered_clips import picture, see_through

    pages = [Image.fromarray(see_through(picture(7)) if oddity.startswith("transparent") else picture(7 + n)) for n in range(3)]
    more = {"save_all": True, "append_images": pages[1:]} if oddity == "several pages" else {}
    pages[0].save(path, {"mpo": "MPO"}.get(path.suffix[1:]), **more)
    return Clip(path, [(7, 0.0)], 0.0, 96, 64, oddity.startswith("transparent"))


@pytest.mark.parametrize(("kind", "codec", "oddity", "reader"), table(), ids=lambda value: value.replace(" ", "-") or "ordinary")
def test_every_door_sees_what_a_player_shows(tmp_path: Path, readers: Readers, kind: str, codec: str, oddity: str, reader: str):
    clip = make_row(tmp_path, kind, codec, oddity)
    assert wrong(clip, readers) == []
    assert read_video(clip.path, 1).reader in reader.split(" or ")


@pytest.mark.parametrize(
    ("kind", "codec", "oddity"), [("mp4", "H.264", "cut without encoding"), ("ts", "HEVC", "B-frames"), ("png", "APNG", "animation")]
)
def test_demo_and_server_ask_about_these_frames(
    tmp_path: Path, readers: Readers, tiny_model: Any, tiny_processor: Any, kind: str, codec: str, oddity: str
):
    clip = make_row(tmp_path, kind, codec, oddity)
    engine = ChatEngine(VideoChat(tiny_model, tiny_processor, "tiny"))
    engine.readers = readers
    stored = Files(ServeSettings(), readers).add(io.BytesIO(clip.path.read_bytes()), clip.path.name)
    with engine.use() as chat:
        for path, bounds in ((clip.path, (None, None)), (stored.path, (None, None)), (clip.path, (clip.times[2], clip.times[6]))):
            _, read = chat._source(path, *bounds)
            assert list(wrong_frames(clip, read())) == []


def wrong(clip: Clip, readers: Readers) -> list[str]:
    """What the doors get wrong, a sentence each."""
    problems = []
    for door in (with_any_reader, with_pyav, with_decord, at_any_time, by_prepare, by_caption, by_the_pool):
        try:
            problems += [f"{door.__name__}: {problem}" for problem in door(clip, readers)]
        except PllavaError as error:
            problems.append(f"{door.__name__}: refused: {str(error).removeprefix(str(clip.path))}")
    return problems


def with_any_reader(clip: Clip, readers: Readers) -> Iterator[str]:
    info = probe(clip.path)
    if (info.width, info.height) != (clip.width, clip.height):
        yield f"probe says {info.width}x{info.height}"
    yield from _wrong_length(clip, info)
    yield from _sampled(clip, "auto")


def with_pyav(clip: Clip, readers: Readers) -> Iterator[str]:
    yield from _sampled(clip, "pyav")


def with_decord(clip: Clip, readers: Readers) -> Iterator[str]:
    yield from _sampled(clip, "decord")


def _sampled(clip: Clip, reader: str) -> Iterator[str]:
    for sampling in SAMPLINGS:
        video = read_video(clip.path, 8, sampling, reader=reader, rng=random.Random(5))
        if video.reader == "pyav" and reader == "auto" and not video.why:
            yield "PyAV reads it without a reason"
        yield from (f"{sampling}: {problem}" for problem in wrong_frames(clip, video))


def at_any_time(clip: Clip, readers: Readers) -> Iterator[str]:
    """Single seconds in any order, then parts."""
    if len(clip.shown) == 1:
        return
    chance, ends = random.Random(3), [*clip.times[1:], clip.end]
    order = chance.sample(range(len(clip.shown)), 4)
    usual = np.median(np.diff(clip.times))
    for n in [*order, int(np.argmax(np.diff([*clip.times, clip.end])))]:
        length = ends[n] - clip.times[n]
        for part in (0.4, 0.75) if length > 2 * usual else (0.4,):
            second = clip.times[n] + part * length
            for sampling in ("eval", "middle"):
                video = read_video(clip.path, 1, sampling, second, second)
                if (seen := number_of(video.frames[0])) != clip.on_screen(second):
                    yield f"{sampling} at {second:.3f} s: {seen}, a player shows {clip.on_screen(second)}"
    first, last = sorted(chance.sample(range(len(clip.shown)), 2))
    start, end = (clip.times[n] + 0.4 * usual for n in (first, last))
    for sampling in ("eval", "middle"):
        video = read_video(clip.path, 8, sampling, start, end)
        yield from (f"{sampling} {start:.3f} to {end:.3f} s: {problem}" for problem in wrong_frames(clip, video))
        if outside := {number_of(frame) for frame in video.frames} - set(clip.numbers[first : last + 1]):
            yield f"{sampling} {start:.3f} to {end:.3f} s: {sorted(outside)} outside {clip.numbers[first]} to {clip.numbers[last]}"


def by_prepare(clip: Clip, readers: Readers) -> Iterator[str]:
    part = (clip.times[len(clip.shown) // 2], None) if len(clip.shown) > 1 else WHOLE
    report = check_media(MediaJob(str(clip.path), (WHOLE, part)), readers)
    if report.problem or report.bound_problems:
        yield f"{report.problem} {report.bound_problems}"
    else:
        yield from _wrong_length(clip, report)


def by_caption(clip: Clip, readers: Readers) -> Iterator[str]:
    stream = FrameStream(clip.path)
    frames = [(number_of(image := frame.image()), frame.time, frame.end, image) for frame in stream]
    if [number for number, *_ in frames] != clip.numbers:
        yield f"numbers {[number for number, *_ in frames]}"
    elif (apart := max(abs(time - right) for (_, time, *_), right in zip(frames, clip.times, strict=True))) > LATE:
        yield f"times {[round(time, 3) for _, time, *_ in frames[:4]]} ..., {apart:.3f} s apart"
    elif clip.end and abs(frames[-1][2] - clip.end) > _frame_length(clip):
        yield f"ends at {frames[-1][2]:.3f} s"
    if stream.notes:
        yield f"notes {stream.notes}"
    if clip.transparent and not all(is_on_white(image) for *_, image in frames):
        yield "not on white"


def by_the_pool(clip: Clip, readers: Readers) -> Iterator[str]:
    """As the demo and the server read: in another process, from a file without a name ending."""
    upload = clip.path.with_name("file-0")
    upload.hardlink_to(clip.path)
    try:
        yield from wrong_frames(clip, readers.read(upload, 16))
    finally:
        upload.unlink()


def wrong_frames(clip: Clip, video: VideoFrames) -> Iterator[str]:
    yield from _wrong_length(clip, video)
    if video.frames.shape[1:] != (clip.height, clip.width, 3):
        yield f"frames of shape {video.frames.shape}"
        return
    seen, inside = [number_of(frame) for frame in video.frames], [index for index in video.indices if index < len(clip.shown)]
    if seen != [clip.numbers[index] for index in inside]:
        yield f"frames {video.indices} show {seen}"
    elif max(abs(time - clip.times[index]) for time, index in zip(video.times, inside, strict=True)) > LATE:
        yield f"frames {inside} at {[round(float(time), 3) for time in video.times]}"
    if clip.transparent and not all(is_on_white(frame) for frame in video.frames):
        yield "not on white"


def _wrong_length(clip: Clip, said: Any) -> Iterator[str]:
    if said.num_frames_total != len(clip.shown):
        yield f"{said.num_frames_total} frames of {len(clip.shown)}"
    if abs(said.duration - clip.end) > _frame_length(clip):
        yield f"{said.duration:.3f} s of {clip.end:.3f}"


def _frame_length(clip: Clip) -> float:
    """Seconds. Not every container says how long its last frame stays."""
    return 1.1 * float(np.median(np.diff(clip.times))) if len(clip.shown) > 1 else 1e-6


CONTAINERS = {
    "mp4": ("H.264", "HEVC", "AV1", "VP9", "MPEG-4", "MPEG-2", "Motion JPEG"),
    "mov": ("H.264", "ProRes", "PNG", "Motion JPEG"),
    "mkv": ("H.264", "HEVC", "VP9", "FFV1"),
    "webm": ("VP8", "VP9", "AV1"),
    "avi": ("MPEG-4", "Motion JPEG", "H.264"),
    "flv": ("H.264",),
    "ts": ("H.264", "HEVC", "MPEG-2"),
    "m2ts": ("H.264", "MPEG-2"),
    "mpg": ("MPEG-1", "MPEG-2"),
}
RATES = (Fraction(10), Fraction(24000, 1001), Fraction(25), Fraction(30))


@st.composite
def recipes(draw: Callable[..., Any]) -> tuple[str, str, dict[str, Any]]:
    """Name ending, encoder and arguments of a clip."""
    kind = draw(st.sampled_from(sorted(CONTAINERS)))
    codec = draw(st.sampled_from(CONTAINERS[kind]))
    frames = draw(st.integers(8, 40))
    options: dict[str, Any] = {
        "frames": frames,
        "fps": draw(st.sampled_from(RATES[1:] if codec.startswith("MPEG-") and codec != "MPEG-4" else RATES)),
        "gop": draw(st.integers(2, 16)),
        "b_frames": draw(st.integers(0, 3)),
        "open_gop": draw(st.booleans()),
        "size": draw(st.sampled_from([(96, 64), (64, 96), (98, 66), (160, 96), (320, 192)])),
    }
    if kind == "mpg":
        options["b_frames"] = 0  # libav guesses the times between the stamps of a program stream, now and then twice the same
    if kind in ("mp4", "mov", "mkv"):
        options |= {"turn": draw(st.sampled_from([0, 0, 90, 180, 270])), "mirror": draw(st.booleans())}
    if kind != "avi":
        oddity = draw(st.sampled_from(["", "begins", "sound", "cut", "hold"]))
        if oddity == "begins":
            options["begins"] = draw(st.sampled_from([0.5, 3, 100]))
        elif oddity == "sound":
            options |= {"sound_first": draw(st.sampled_from([0.0, 1.0, 2.0])), "fps": Fraction(25 if "MPEG-" in codec else 10)}
        elif oddity == "cut" and codec != "AV1" and (kind in EDIT_LISTS or (kind == "mkv" and not options["open_gop"])):
            options |= {"cut": draw(st.integers(1, frames - 5)), "sound_first": draw(st.sampled_from([None, 0.0]))}
            options["fps"] = Fraction(25 if "MPEG-" in codec else 10)
        elif oddity == "hold" and kind != "mpg":
            options["holds"] = draw(st.dictionaries(st.integers(0, frames - 2), st.integers(1, 30), min_size=1, max_size=3))
    return kind, ENCODERS[codec], options


def test_any_clip(tmp_path: Path, readers: Readers):
    names, used, bad = iter(range(10**6)), Counter[str](), []

    @seed(int(os.environ.get("PLLAVA_CLIPS_SEED", "0")))
    @settings(max_examples=DRAWN, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(recipes())
    def draw(recipe: tuple[str, str, dict[str, Any]]) -> None:
        kind, encoder, options = recipe
        clip = make(tmp_path / f"{next(names)}.{kind}", encoder, **options)
        used[read_video(clip.path, 1).reader] += 1
        if problems := wrong(clip, readers):
            bad.append((kind, encoder, options, problems))
        clip.path.unlink()

    draw()
    print(f"{used.total()} clips, read by {dict(used)}")
    assert not bad, f"{len(bad)} of {used.total()} clips:\n" + "\n".join(map(str, bad))
