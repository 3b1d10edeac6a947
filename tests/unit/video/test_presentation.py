"""What a clip shows is decided in one place: which decoder is trusted, what is on screen at a time, and which files move."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.presentation import on_screen
from pllava.video.reader import probe, read_video
from pllava.video.stream import FrameStream

LEVELS = 9  # grey levels between two frames


def write(path: Path, frames: int = 24, fps: int = 10, times: list[int] | None = None, **options: str) -> Path:
    """Frame n is the grey level LEVELS * n. times: of the frames, in units of 1 / fps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5", **options})
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((192, 320, 3), LEVELS * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint(frames.mean((1, 2, 3)) / LEVELS).astype(int).tolist()


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("plain.mp4", {}, ""),
        ("open.mp4", {"x264-params": "open-gop=1:bframes=2:keyint=8:min-keyint=1:scenecut=0:b-adapt=0"}, "IDR"),
        ("refresh.mp4", {"x264-params": "intra-refresh=1:keyint=8:scenecut=0:bframes=0"}, "IDR"),
        ("stream.ts", {}, "mpegts"),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "decord"])
def test_decord_reads_only_what_it_reads_right(tmp_path: Path, name: str, options: dict[str, str], why: str, reader: str):
    path = write(tmp_path / name, **options)
    video = read_video(path, 24, "middle", reader=reader)
    assert numbers(video.frames) == list(range(24))
    assert [numbers(read_video(path, 1, start=n / 10, end=n / 10).frames) for n in (19, 9, 17, 3)] == [[19], [9], [17], [3]]
    assert (video.reader, bool(video.why)) == (("pyav", True) if why else ("decord", False))
    assert why in video.read_by
    assert why in probe(path).why


def test_the_frame_on_screen_is_the_last_one_at_or_before(tmp_path: Path):
    times = np.array([2.0, 2.1, 4.0])
    assert [on_screen(times, second) for second in (0, 2.0, 2.099, 2.1, 3.999, 4.0, 9)] == [0, 0, 0, 1, 1, 2, 2]
    path = write(tmp_path / "hold.mp4", 12, times=[0, 1, 2, 3, 4, 5, 26, 27, 28, 29, 30, 31])
    for sampling in ("eval", "demo", "middle", "rand", "fps4"):
        assert set(numbers(read_video(path, 4, sampling, start=1.2, end=2.4).frames)) == {5}
    assert numbers(read_video(path, 4, "fps2").frames) == [2, 5, 5, 5, 5, 7]
    assert numbers(read_video(path, 1, start=3.19).frames) == [11]
    with pytest.raises(PllavaError, match="past the end"):
        read_video(path, 1, start=3.2)


def test_several_pictures_without_a_time_are_a_picture(tmp_path: Path):
    images = [Image.new("RGB", (32, 32), (200, 10 * n, 0)) for n in range(3)]
    images[0].save(tmp_path / "a.tiff", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "a.mpo", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "a.ico", sizes=[(16, 16), (32, 32)])
    images[0].save(tmp_path / "a.avif", quality=100)
    for path in sorted(tmp_path.iterdir()):
        video = read_video(path)
        assert (video.num_frames_total, video.duration, video.frames.shape) == (1, 0, (1, 32, 32, 3)), path.name
        assert np.abs(video.frames[0, 8, 8].astype(int) - (200, 0, 0)).max() < 5, path.name


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif", ".gif"])
def test_animations_are_clips_on_white_by_every_door(tmp_path: Path, suffix: str):
    images = []
    for n in range(5):
        image = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
        image.paste((220, 0, 0, 255), (0, 0, 8 * (n + 1), 24))
        images.append(image)
    path = tmp_path / f"a{suffix}"
    more = {"lossless": True} if suffix == ".webp" else {"disposal": 2} if suffix == ".gif" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 200, 100, 300, 100], loop=0, **more)
    video, stream = read_video(path, 5, "middle"), list(FrameStream(path))
    assert video.times == pytest.approx([0, 0.1, 0.3, 0.4, 0.7])
    assert video.duration == pytest.approx(0.8)
    assert [frame.time for frame in stream] == pytest.approx(video.times)
    for frame, streamed in zip(video.frames, stream, strict=True):
        np.testing.assert_array_equal(frame, streamed.image())
        assert frame[40:].min() > 245
    assert [int((frame[8, :, 1] < 128).sum()) for frame in video.frames] == pytest.approx([8, 16, 24, 32, 40], abs=1)
