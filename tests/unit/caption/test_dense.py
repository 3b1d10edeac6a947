"""Scenes are found where they are, to the frame, and a file that is odd or broken is captioned as far as it goes."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import pllava
from pllava.chat import VideoChat
from pllava.chat.caption import scan as scanning
from pllava.chat.caption.scan import Scan
from pllava.chat.caption.scenes import Scene, SceneSettings
from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.child import Child
from pllava.video.limits import Limits
from pllava.video.reader import read_video

WriteScenes = Callable[..., Path]


def scenes_of(path: Path, num_frames: int = 4, **settings: float) -> list[Scene]:
    return list(Scan(path, SceneSettings(**settings), num_frames))  # type: ignore[arg-type]


def test_cuts_are_found_to_the_frame(write_scenes: WriteScenes):
    found = scenes_of(write_scenes("a.mp4", [25, 13, 40]))
    assert [(scene.start_frame, scene.end_frame) for scene in found] == [(0, 25), (25, 38), (38, 78)]
    assert [scene.start for scene in found] + [found[-1].end] == pytest.approx([0, 2.5, 3.8, 7.8], abs=1e-6)
    for scene in found:
        assert scene.frames.shape == (4, 64, 96, 3)
        assert all(scene.start_frame <= index < scene.end_frame for index in scene.indices)
        assert np.ptp(scene.frames[:, :10].astype(int), axis=0).max() < 12, "frames of another scene"


def test_variable_frame_rate_goes_by_timestamps(write_scenes: WriteScenes):
    shown = [40 * number for number in range(25)] + [1500 + 700 * number for number in range(10)] + [9000 + 20 * n for n in range(60)]
    found = scenes_of(write_scenes("vfr.mp4", [25, 10, 60], milliseconds=shown))
    assert [scene.start for scene in found] == pytest.approx([0, 1.5, 9.0], abs=2e-3)
    assert found[-1].end == pytest.approx(9.0 + 59 * 0.02 + 0.1, abs=2e-3)  # the last lasts as long as the file says
    assert [scene.end for scene in found[:-1]] == [scene.start for scene in found[1:]], "no gap between scenes"


def test_short_scenes_join_and_long_ones_are_split(write_scenes: WriteScenes):
    path = write_scenes("a.mp4", [30, 3, 100, 4])
    frames = [(scene.start_frame, scene.end_frame) for scene in scenes_of(path, min_seconds=1, max_seconds=4)]
    assert frames[0] == (0, 30)
    assert frames[-1][1] == 137
    assert all(10 <= end - start <= 40 + 10 for start, end in frames)
    assert [end for _, end in frames[:-1]] == [start for start, _ in frames[1:]]


def test_windows(write_scenes: WriteScenes):
    found = scenes_of(write_scenes("a.mp4", [25, 15]), detect=False, min_seconds=0, max_seconds=1.5)
    assert [(scene.start_frame, scene.end_frame) for scene in found] == [(0, 15), (15, 30), (30, 40)]


def test_few_frames_are_those_of_the_evaluation(write_scenes: WriteScenes):
    path = write_scenes("a.mp4", [16])
    [scene] = scenes_of(path, min_seconds=0)
    assert scene.indices == read_video(path, 4).indices
    np.testing.assert_array_equal(scene.frames, read_video(path, 4, reader="pyav").frames)


def test_every_container_counts_from_its_own_start(write_scenes: WriteScenes):
    for name in ("a.ts", "a.mkv", "a.avi", "a.mov"):
        assert [scene.start for scene in scenes_of(write_scenes(name, [20, 20]))] == pytest.approx([0, 2.0], abs=2e-3), name


def test_segments(write_scenes: WriteScenes, chat: VideoChat):
    path = write_scenes("a.mp4", [20, 30, 20])
    dense = pllava.dense_caption(chat, path, "What?", max_new_tokens=4, batch_size=2, summary=True)
    segments = list(dense)
    assert [segment.start for segment in segments] == pytest.approx([0, 2, 5])
    assert [segment.end for segment in segments] == pytest.approx([2, 5, 7])
    assert all(segment.text for segment in segments)
    assert dense.summary
    assert not dense.notes
    assert (dense.num_frames, dense.duration) == (70, pytest.approx(7.0))
    again = pllava.dense_caption(chat, path, "What?", max_new_tokens=4, batch_size=1)
    assert list(again) == segments, "captions depend on the batch"
    assert again.summary is None


def test_a_scene_is_captioned_from_its_own_frames(write_scenes: WriteScenes, chat: VideoChat):
    path = write_scenes("a.mp4", [16, 16])
    first, second = pllava.dense_caption(chat, path, "What?", max_new_tokens=6)
    for segment in (first, second):
        own = read_video(path, chat.processor.num_frames, start=segment.start, end=segment.end - 0.1)
        assert set(own.indices) <= set(range(segment.start_frame, segment.end_frame))
        assert chat.watch(own).ask("What?", max_new_tokens=6).text == segment.text


def test_a_broken_tail_is_captioned_as_far_as_it_goes(write_scenes: WriteScenes, chat: VideoChat):
    path = write_scenes("a.mp4", [30, 30, 30], gop=10, movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(PllavaError, match="cut off"):
        read_video(path)
    dense = pllava.dense_caption(chat, path, max_new_tokens=2)
    segments = list(dense)
    assert segments[0].start == 0
    assert 2.9 < segments[-1].end < 9
    assert dense.notes
    assert "90 frames" in " ".join(dense.notes)


def test_damage_in_the_middle_is_passed_over(write_scenes: WriteScenes, chat: VideoChat):
    path = write_scenes("a.mkv", [30, 30, 30], gop=10)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    path.write_bytes(data)
    dense = pllava.dense_caption(chat, path, max_new_tokens=2)
    assert list(dense)[-1].end > 6
    assert dense.notes


def test_one_frame_a_still_a_gif_and_a_frame_folder(write_scenes: WriteScenes, tmp_path: Path, chat: VideoChat):
    one = write_scenes("one.mp4", [1])
    still = tmp_path / "still.png"
    Image.new("RGB", (40, 30), (9, 99, 200)).save(still)
    gif = tmp_path / "a.gif"
    pictures = [Image.new("RGB", (32, 24), (200, 0, 0) if number < 10 else (0, 0, 200)) for number in range(20)]
    for number, picture in enumerate(pictures):
        picture.putpixel((number, 0), (255, 255, 255))
    pictures[0].save(gif, save_all=True, append_images=pictures[1:], duration=[150] * 10 + [300] * 10)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 13):
        Image.new("RGB", (32, 24), (200, 0, 0) if number < 7 else (0, 0, 200)).save(folder / f"{number:05d}.png")
    expected = {one: [0, 0.1], still: [0, 1], gif: [0, 1.5, 4.5], folder: [0, 2, 4]}
    for path, times in expected.items():
        segments = list(pllava.dense_caption(chat, path, max_new_tokens=2))
        assert [segment.start for segment in segments] + [segments[-1].end] == pytest.approx(times, abs=0.02), path.name


def test_nothing_to_read_is_said_at_once(tmp_path: Path, chat: VideoChat):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(os.urandom(5000))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name, reason in (("empty", "is empty"), ("junk", "not a readable video"), ("sound", "no video stream"), ("none", "no such file")):
        with pytest.raises(PllavaError, match=reason):
            pllava.dense_caption(chat, tmp_path / f"{name}.mp4")
    with pytest.raises(PllavaError, match="holds"):
        pllava.dense_caption(chat, tmp_path / "empty.mp4", "a</s>b")


def test_a_turned_video_is_upright(write_scenes: WriteScenes):
    path = write_scenes("phone.mp4", [12])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 36
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    [scene] = scenes_of(path)
    np.testing.assert_array_equal(scene.frames, read_video(path, 4).frames)
    assert scene.frames.shape == (4, 96, 64, 3)


def test_pictures_are_the_towers(write_scenes: WriteScenes):
    path = write_scenes("a.mp4", [12])
    [scene] = Scan(path, num_frames=4, picture=(56, 56, 56))
    np.testing.assert_array_equal(scene.frames, tower_pictures([read_video(path, 4).frames], 56, (56, 56))[0])


def test_a_scan_that_hangs_is_given_up(write_scenes: WriteScenes):
    path = write_scenes("a.mp4", [20, 20])
    list(Scan(path))
    child = Child.idle[scanning.SCANNER][-1]
    os.kill(child.process.pid, signal.SIGSTOP)
    with pytest.raises(PllavaError, match=r"not read within 0\.5 s"):
        list(Scan(path, time_limit=0.5))
    assert child.process.poll() is not None
    assert len(list(Scan(path))) == 2


def test_limits_hold(write_scenes: WriteScenes):
    path = write_scenes("a.mp4", [20, 20])
    for limit in ({"max_seconds": 1.0}, {"max_bytes": 10}, {"max_pixels": 100}, {"max_frames": 5}):
        with pytest.raises(PllavaError, match="the limit is"):
            list(Scan(path, limits=Limits(**limit)))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"min_seconds": -1}, {"min_seconds": 5, "max_seconds": 5}, {"threshold": 0}, {"ratio": 0}])
def test_settings_that_make_no_sense(settings: dict[str, float]):
    with pytest.raises(PllavaError, match="need 0 <= min_seconds"):
        SceneSettings(**settings)  # type: ignore[arg-type]
