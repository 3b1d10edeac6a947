"""Every command that opens a clip outlives it: an unknown codec, a small file of 60,000 huge frames, a decoder that dies."""

from __future__ import annotations

import io
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pllava.chat import VideoChat
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.video.readers import Readers

Prepared = Callable[..., Params]
SMALL = Path("data/raw/small")
TRAINED, ASKED = SMALL / "videos/train/0.mp4", SMALL / "MVBench/video/moving_direction/40.mp4"
TOLERANT = {"data": {"max_bad_fraction": 0.1}, "features": {"enabled": True}}


@dataclass
class Room:
    """A project that is ready to train, and the tiny model."""

    params: Prepared
    chat: VideoChat


@pytest.fixture
def room(prepared: Prepared, tiny_model: Any, tiny_processor: Any) -> Room:
    return Room(prepared, VideoChat(tiny_model, tiny_processor, "tiny"))


@pytest.fixture
def unknown_codec(corpus: Path, tmp_path: Path) -> Path:
    """Its container names a codec that nobody has."""
    data = (corpus / "videos/train/0.mp4").read_bytes()
    assert data.count(b"avc1") in (1, 2)  # a brand of the file may be called so, too
    path = tmp_path / "unknown.mp4"
    path.write_bytes(data.replace(b"avc1", b"zzz1"))
    return path


# Each takes the hostile clip and gives what is said about it. It ends the test when a good clip beside it is lost.


def prepare(room: Room, path: Path) -> str:
    from pllava.artifacts.manifest import PREPARED
    from pllava.stages.prepare.run import prepare

    shutil.copy(path, TRAINED)
    with pytest.raises(PllavaError, match=r"1 of 12 train row.*media unreadable: 1"):
        prepare(room.params())
    prepare(room.params(**TOLERANT))
    [row] = pq.read_table(PREPARED / "quarantined.parquet").to_pylist()
    assert row["codes"] == "media unreadable"
    return row["reasons"]


def features(room: Room, path: Path) -> str:
    from pllava.artifacts.feature_store import STORE
    from pllava.core.files import read_json
    from pllava.stages.features.run import features

    shutil.copy(path, TRAINED)
    shutil.rmtree(STORE)
    with pytest.raises(PllavaError, match="1 of 15 clips cannot be decoded"):
        features(room.params())
    features(room.params(**TOLERANT))
    index = read_json(STORE / "index.json")
    assert len(index["clips"]) == 14
    [reason] = index["unreadable"].values()
    return reason


def train(room: Room, path: Path) -> str:
    from pllava.stages.train.inputs import Inputs

    shutil.copy(path, TRAINED)
    params = room.params(features={"enabled": False}, train={"max_bad_fraction": 0.1})
    made = Inputs(params, room.chat.processor)
    made.record_bad_clips("train", made.steps(3))
    assert list(made.bad_clips["train"]) == ["small:0"]
    strict = Inputs(room.params(features={"enabled": False}, train={"max_bad_fraction": 0.01}), room.chat.processor)
    with pytest.raises(PllavaError, match=r"1 of 12 train clip\(s\) cannot be read"):
        strict.record_bad_clips("train", strict.steps(3))
    return made.bad_clips["train"]["small:0"]


def evaluate(room: Room, path: Path) -> str:
    from pllava.benchmarks.mvbench import MVBench, load_samples
    from pllava.stages.evaluate.predict import Predictor, Variant
    from pllava.stages.evaluate.units import units

    shutil.copy(path, ASKED)
    root = SMALL / "MVBench"
    [unit] = units(load_samples(root), 8)
    predictor = Predictor(MVBench(), [Variant("base", room.chat.model)], room.chat.processor, room.chat.template, 4, 2, 8, root)
    bad, good = sorted(predictor.answer(unit), key=lambda row: row["media"])
    assert good["error"] is None
    assert good["prediction"]
    assert not bad["prediction"]
    return bad["error"]


def ask(room: Room, path: Path) -> str:
    from pllava.apps.ask import ask

    with pytest.raises(PllavaError) as caught:
        ask(room.params(), path, "What?")
    return str(caught.value)


def caption_folder(room: Room, path: Path) -> str:
    return _captions(room, path, None)


def caption_dense_folder(room: Room, path: Path) -> str:
    from pllava.apps.caption.job import Dense

    return _captions(room, path, Dense())


def _captions(room: Room, path: Path, dense: Any) -> str:
    from pllava.apps.caption.batch import caption_batches
    from pllava.apps.caption.job import Job

    base = room.params().model.base
    source = {"name": "tiny", "base": base, "adapter": None, "template": "tiny", "why": "", "dtype": "float32"}
    job = Job(source=source, max_new_tokens=2, question="What?", dense=dense)
    [batch] = caption_batches(job, [[str(path), str(ASKED)]])
    assert "error" not in batch[1][1]
    return batch[0][1]["error"]


def caption_one(room: Room, path: Path) -> str:
    from pllava.chat.caption.dense import dense_caption

    with pytest.raises(PllavaError) as caught:
        list(dense_caption(room.chat, path, max_new_tokens=2))
    return str(caught.value)


def serve(room: Room, path: Path) -> str:
    from pllava.apps.serve.errors import ApiError
    from pllava.apps.serve.files import Files
    from pllava.apps.serve.settings import ServeSettings

    files = Files(ServeSettings(), Readers(1))
    with pytest.raises(ApiError) as caught:
        files.add(io.BytesIO(path.read_bytes()), path.name)
    files.add(io.BytesIO(ASKED.read_bytes()), "good.mp4")
    return f"{path.name}: {caught.value}"


def demo(room: Room, path: Path) -> str:
    from pllava.apps.demo.engine import ChatEngine

    engine = ChatEngine(room.chat)
    engine.readers = Readers(1, limits=engine.limits)
    with pytest.raises(PllavaError) as caught:
        engine.watch(path)
    engine.watch(ASKED)
    return str(caught.value)


def gallery(room: Room, path: Path) -> str:
    from pllava.apps.web import media

    media.content_type(path)
    with pytest.raises(PllavaError) as caught:
        media.strip(path, 4, "eval", None, None)
    assert media.content_type(ASKED) == "video/mp4"
    assert media.strip(ASKED, 4, "eval", None, None)
    return str(caught.value)


DOORS = [prepare, features, train, evaluate, ask, caption_folder, caption_dense_folder, caption_one, serve, demo, gallery]
every_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)


@every_door
def test_an_unknown_codec_is_a_sentence(room: Room, door: Callable[[Room, Path], str], unknown_codec: Path):
    assert "a codec that is unknown here" in door(room, unknown_codec)


@every_door
def test_what_would_take_hours_to_decode_is_refused_at_once(room: Room, door: Callable[[Room, Path], str], big_gif: Path):
    began = time.monotonic()
    assert "the limit is" in door(room, big_gif)
    assert time.monotonic() - began < 20


@every_door
def test_a_decoder_that_dies_costs_its_own_clip(
    room: Room,
    door: Callable[[Room, Path], str],
    slow_gif: Path,
    signal_readers: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    size = slow_gif.stat().st_size
    with (
        tempfile.TemporaryDirectory() as uploads,  # a short path: workers of a DataLoader open a socket in it
        signal_readers(lambda file: file.is_file() and file.stat().st_size == size, signal.SIGSEGV) as pids,
    ):
        monkeypatch.setattr(tempfile, "tempdir", uploads)
        assert "the decoder died (signal 11" in door(room, slow_gif)
    assert pids
