"""A clip unlike the training clips is noticed, from the training on to every door that answers about it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import pllava
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.core.signals import Stopped
from pllava.model.familiarity import FAR, FILE, Familiarity
from pllava.stages.features.run import features
from pllava.stages.prepare.run import prepare
from pllava.stages.render.corpus import render
from pllava.stages.render.video_writer import write_mp4
from pllava.stages.train.logger import TrainLogger
from pllava.stages.train.loop import OUTPUT, run
from pllava.video.frames import VideoFrames

CHECKOUT = Path(__file__).parents[3]
RENDERED = {"instruction_clips": 200, "validation_clips": 60, "test_clips_per_task": 1}
TRAIN = {"steps": 2, "batch_size": 4, "threads": 1, "validate_every": 2, "lora": {"r": 4, "alpha": 4}}
SIDE, COUNT = 128, 8


def make_params(**changes: Any) -> Params:
    sections = yaml.safe_load((CHECKOUT / "recipes" / "tiny.yaml").read_text())
    more = {"rendered": RENDERED, "train": TRAIN, "model": {"base": str(CHECKOUT / "data/base/tiny-llava")}, "features": {"enabled": True}}
    for section, values in [*more.items(), *changes.items()]:
        sections[section] |= values
    return Params.model_validate(sections)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project folder after a training of two steps on the rendered corpus."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(root):
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for stage in (render, prepare, features, run):
            stage(make_params())
        yield root


@pytest.fixture(scope="module")
def adapter(trained: Path) -> Path:
    return trained / OUTPUT / "adapter"


@pytest.fixture(scope="module")
def chat(adapter: Path) -> pllava.VideoChat:
    return pllava.VideoChat(*pllava.load(adapter), template="tiny")


def frames(pictures: Any) -> VideoFrames:
    pictures = np.ascontiguousarray(pictures, dtype=np.uint8)
    return VideoFrames(pictures, np.arange(len(pictures)) / 4, list(range(len(pictures))), 4.0, len(pictures), len(pictures) / 4, "test")


def unlike() -> dict[str, np.ndarray]:
    """Clips [T, H, W, 3] that no rendered clip is like."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    coarse = np.kron(random.integers(0, 256, (40, 40, 3)), np.ones((6, 6, 1)))
    fine = random.integers(0, 256, (240, 240, 3))
    slope = [np.stack([x + 5 * t, y + 3 * t, np.full_like(x, 120)], -1) % 256 for t in range(COUNT)]
    sky = [np.stack([90 + y // 2, 120 + y // 3, 200 - y // 2 + t], -1) for t in range(COUNT)]
    return {
        "noise": random.integers(0, 256, (COUNT, SIDE, SIDE, 3)),
        "grey": np.full((COUNT, SIDE, SIDE, 3), 128),
        "dark grey": np.full((COUNT, SIDE, SIDE, 3), 40),
        "white": np.full((COUNT, SIDE, SIDE, 3), 255),
        "a camera over blocks": np.stack([coarse[6 * t :][:SIDE, 4 * t :][:, :SIDE] for t in range(COUNT)]),
        "a camera over noise": np.stack([fine[6 * t :][:SIDE, 4 * t :][:, :SIDE] for t in range(COUNT)]),
        "a moving slope of colors": np.stack(slope),
        "sky": np.stack(sky),
    }


def test_training_writes_small_statistics_that_the_manifest_lists(adapter: Path):
    assert (adapter / FILE).stat().st_size < 100_000
    assert FILE in json.loads((adapter / "manifest.json").read_text())["files"]


def test_rendered_clips_are_familiar_and_others_are_far(trained: Path, chat: pllava.VideoChat):
    videos = trained / "data/raw/rendered/videos"
    training = chat.watch_all(sorted((videos / "train").iterdir())[:60])
    held_out = chat.watch_all(sorted((videos / "validation").iterdir()))
    assert training[0].far is False
    for clips in (training, held_out):
        assert sum(bool(video.far) for video in clips) <= 0.05 * len(clips)
        assert 0.8 < np.median([video.distance or 0 for video in clips]) < 1.3
    for name, pictures in unlike().items():
        video = chat.watch(frames(pictures))
        assert video.far is True, (name, video.distance)
    assert chat.watch(CHECKOUT / "tests/reference/video/clip_long.mp4").far is True


def test_the_distance_is_one_number_however_a_clip_is_watched(trained: Path, chat: pllava.VideoChat):
    path = trained / "data/raw/rendered/videos/validation/00000.mp4"
    distance = chat.watch(path).distance
    assert pllava.VideoChat(chat.model, chat.processor, "tiny").watch(path).distance == distance
    [_, batched] = chat.watch_all([frames(unlike()["sky"]), path])
    [alone] = chat.watch_features([chat._base.vision_features(chat.processor.preprocess_video(batched.frames.frames))])
    assert batched.distance == alone.distance == distance
    answer = chat.watch(path).ask("What moves?", 2)
    assert answer.distance is not None
    assert answer.distance.distance == distance


def test_a_stopped_training_without_stored_features_gives_equal_statistics(
    trained: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(trained / "data", tmp_path / "data")
    step = TrainLogger.step

    def stopping(self: TrainLogger, number: int) -> Any:
        if number == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(self, number)

    monkeypatch.setattr(TrainLogger, "step", stopping)
    with contextlib.chdir(tmp_path):
        params = make_params(features={"enabled": False})
        features(params)
        with pytest.raises(Stopped):
            run(params)
        run(params)
    for name in (FILE, "adapter_model.safetensors"):
        assert (tmp_path / OUTPUT / "adapter" / name).read_bytes() == (adapter / name).read_bytes()


def test_a_model_without_statistics_says_nothing(adapter: Path, tmp_path: Path):
    from pllava.model.adapter import write_manifest

    old = shutil.copytree(adapter, tmp_path / "old")
    (old / FILE).unlink()
    write_manifest(old, str(CHECKOUT / "data/base/tiny-llava"))
    chat = pllava.VideoChat(*pllava.load(old), template="tiny")
    video = chat.watch(frames(unlike()["noise"]))
    assert video.distance is None
    assert video.far is None
    assert video.ask("What moves?", 2).distance is None


def test_statistics_travel_with_conversion_and_export(adapter: Path, tmp_path: Path):
    from pllava.model.convert import convert
    from pllava.model.export import export

    base = CHECKOUT / "data/base/tiny-llava"
    convert(adapter, tmp_path / "published", base=str(base))
    convert(tmp_path / "published", tmp_path / "ours", base=str(base))
    export(base, tmp_path / "whole", adapter, dtype="float32")
    for folder in ("published", "ours", "whole"):
        assert (tmp_path / folder / FILE).read_bytes() == (adapter / FILE).read_bytes()
    whole = pllava.VideoChat(*pllava.load(tmp_path / "whole"), template="tiny")
    assert whole.watch(frames(unlike()["noise"])).far is True
    merged = pllava.VideoChat(*pllava.load(adapter, merge=True), template="tiny")
    assert merged.watch(frames(unlike()["noise"])).far is True


def test_damaged_statistics_are_refused(adapter: Path, tmp_path: Path):
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / FILE).write_bytes(b"no tensors")
    with pytest.raises(PllavaError, match=f"changed: {FILE}"):
        pllava.load(broken)
    (broken / "manifest.json").unlink()
    with pytest.raises(PllavaError, match=f"{FILE}: no statistics of training clips"):
        pllava.load(broken)


def test_too_few_clips_give_no_statistics_and_equal_clips_give_finite_ones():
    values = np.random.default_rng(0).normal(size=(40, 12))
    assert Familiarity.fit(list(values[:19])) is None
    same = Familiarity.fit([values[0]] * 40)
    assert same is not None
    assert same._distance(values[0]) <= same.threshold
    assert np.isfinite(same._distance(values[1] * np.inf))
    assert same._distance(values[1] * np.nan) > same.threshold


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[bool, Path]:
    """Paths of a clip that is far (True), and of a familiar one."""
    far = tmp_path_factory.mktemp("clips") / "blocks.mp4"
    write_mp4(far, np.ascontiguousarray(unlike()["a camera over blocks"], dtype=np.uint8), 8)
    return {True: far, False: trained / "data/raw/rendered/videos/train/00000.mp4"}


@pytest.mark.parametrize("far", [True, False])
def test_ask_says_it(trained: Path, clips: dict[bool, Path], far: bool):
    from pllava.apps.ask import ask

    said: list[object] = []
    with contextlib.chdir(trained):
        ask(make_params(), clips[far], "What moves?", model=str(OUTPUT / "adapter"), max_new_tokens=2, say=said.append)
    assert (FAR in said) is far


def test_the_api_says_it(chat: pllava.VideoChat, clips: dict[bool, Path]):
    import base64

    from fastapi.testclient import TestClient

    from pllava.apps.serve.server import build_app
    from pllava.apps.serve.settings import ServeSettings

    with TestClient(build_app(chat, ["tiny"], ServeSettings()), base_url="http://127.0.0.1") as client:
        for far, path in clips.items():
            url = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
            content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What moves?"}]
            body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 2}
            facts = client.post("/v1/chat/completions", json=body).json()["pllava"]
            assert facts["far"] is far
            assert (facts["distance"] > facts["threshold"]) is far
            assert facts.get("warning") == (FAR if far else None)
            lines = client.post("/v1/chat/completions", json=body | {"stream": True}).text.splitlines()
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
            assert [chunk.get("pllava") for chunk in chunks] == [*[None] * (len(chunks) - 1), facts]
    chat.readers = None


def test_the_page_says_it(chat: pllava.VideoChat, clips: dict[bool, Path], tmp_path: Path):
    from pllava.apps.demo.engine import ChatEngine, Settings
    from pllava.apps.demo.handlers import Visits
    from pllava.apps.web.uploads import Uploads

    uploads = Uploads(tmp_path)
    uploads.open()
    visits = Visits(ChatEngine(chat), uploads)
    for far, path in clips.items():
        clip = visits.look(f"visitor {far}", str(path), Settings(), ours=True)
        assert (FAR in clip.strip) is far
        assert (FAR in visits.look_again(clip, Settings())) is far


def test_captions_say_it(chat: pllava.VideoChat, clips: dict[bool, Path], adapter: Path, tmp_path: Path):
    from pllava.apps.caption.folder import caption_all
    from pllava.apps.caption.job import Job
    from pllava.chat.model_ref import ModelRef

    for far, path in clips.items():
        dense = pllava.dense_caption(chat, path, max_new_tokens=2)
        assert any("unlike the clips this model was trained on" in note for note in dense.entry(path.name)["notes"]) is far
    source = vars(ModelRef.parse(str(adapter)))
    summary = caption_all(list(clips.values()), tmp_path / "captions.jsonl", Job(source=source, max_new_tokens=2))
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [row["far"] for row in rows] == [True, False]
    assert "1 are unlike the clips" in str(summary)
