"""The feature store holds the tower's output, the same in every run and however it came about, and says when it does not fit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pllava
from pllava.artifacts.feature_store import STORE, FeatureStore, open_store
from pllava.artifacts.manifest import PREPARED, ManifestRow, read_manifest
from pllava.core import recipes as recipe
from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.model import tower
from pllava.stages.features import plan as feature_plan
from pllava.stages.features import run as stage
from pllava.stages.features.plan import FeaturePlan, clip_bytes, plan_features
from pllava.stages.features.run import PARTIAL, features
from pllava.stages.prepare.run import prepare

Project = Callable[..., Params]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each call of the tower got."""
    calls: list[int] = []
    encode = tower.encode_clips

    def count(model: object, clips: list[torch.Tensor], dtype: str) -> list[torch.Tensor]:
        calls.append(len(clips))
        return encode(model, clips, dtype)

    monkeypatch.setattr(tower, "encode_clips", count)
    return calls


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many bytes on the disk."""
    monkeypatch.setattr(feature_plan.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, count))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clips of the small corpus a shard."""
    monkeypatch.setattr(stage, "SHARD_BYTES", 4 * 4 * 16 * 64 * 4)


def hashes() -> dict[str, str]:
    return {file.name: sha256_file(file) for file in STORE.iterdir()}


def flip(file: Path, place: int = -5) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_store_holds_what_the_tower_gives(prepared: Project) -> None:
    params = prepared()
    first = hashes()
    assert set(first) == {"index.json", "features-00000.safetensors"}

    row = read_manifest(PREPARED / "validation.parquet")[1]
    model, processor = pllava.load(params.model.base, num_frames=4, dtype="float32", device="cpu")
    pixels = processor.preprocess_video(pllava.read_video(row.media, 4, "middle").frames)
    assert torch.equal(FeatureStore(params).get(row), model.vision_features(pixels))

    shutil.rmtree(STORE)
    assert features(prepared(data={"workers": 2})) == STORE
    assert hashes() == first
    assert not PARTIAL.exists()

    with pytest.raises(PllavaError, match=r"other settings \(num_frames\)"):
        FeatureStore(prepared(model={"num_frames": 2, "pooling_shape": (2, 2, 2)}))
    with pytest.raises(PllavaError, match="has no features of"):
        FeatureStore(params).get(replace(row, media_sha256="0" * 64))


def test_a_clip_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(tiny_model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tower, "TOKENS_AT_ONCE", 3 * 17)  # three frames a piece: clips end within one
    clips = [torch.randn(frames, 3, 56, 56, generator=torch.Generator().manual_seed(frames)) for frames in (4, 1, 7)]
    torch.set_num_threads(1)
    alone = [tower.encode_clips(tiny_model, [clip], "float32")[0] for clip in clips]
    torch.set_num_threads(3)
    with torch.autocast("cpu", torch.bfloat16):
        together = tower.encode_clips(tiny_model, clips, "float32")
    assert torch.get_num_threads() == 3
    assert [features.shape for features in together] == [(4, 16, 64), (1, 16, 64), (7, 16, 64)]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("place", [-5, 30, 4])  # a number, the header, the header's length
def test_a_flipped_byte_is_refused_and_mended(prepared: Project, encoded: list[int], place: int) -> None:
    params = prepared()
    first, shard = hashes(), STORE / "features-00000.safetensors"
    flip(shard, place)
    with pytest.raises(PllavaError, match=r"features-00000\.safetensors.*Write it again: pllava features"):
        store = FeatureStore(params)
        for row in read_manifest(PREPARED / "train.parquet") + read_manifest(PREPARED / "validation.parquet"):
            store.get(row)
    features(params)
    assert sum(encoded) == 1 if place == -5 else 15, "the other clips are taken over"
    assert hashes() == first


def test_a_cut_or_lost_shard_is_refused(prepared: Project) -> None:
    params, row = prepared(), read_manifest(PREPARED / "train.parquet")[0]
    shard = STORE / "features-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(PllavaError, match="is damaged"):
        FeatureStore(params).get(row)
    shard.unlink()
    with pytest.raises(PllavaError, match=r"is not there, though index\.json names it"):
        FeatureStore(params).get(row)


def test_only_new_clips_are_encoded(prepared: Project, encoded: list[int]) -> None:
    """With persist in dvc.yaml the old store is there while a new one is made."""
    params = prepared()
    whole = hashes()
    index = json.loads((STORE / "index.json").read_text())
    dropped = sorted(index["clips"])[:2]
    for key in dropped:
        del index["clips"][key]
    (STORE / "index.json").write_text(json.dumps(index))
    features(params)
    assert sum(encoded) == 2
    assert hashes() == whole
    features(prepared(features={"dtype": "bfloat16"}))
    assert sum(encoded) == 2 + 15, "other numbers are other features"


KILLED = """
import os, signal, sys
from pllava.stages.features import run as stage
from pllava.core.params import load_params
stage.SHARD_BYTES = int(sys.argv[1])
write = stage.Build._write
def dies_after_the_second(self, name, tensors, bad):
    if name.endswith("2.safetensors"):
        (self.folder / f".{name}.1.partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, tensors, bad)
stage.Build._write = dies_after_the_second
stage.features(load_params("killed.json"))
"""


def test_killed_and_resumed_equals_uninterrupted(
    prepared: Project, small_shards: None, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = prepared()
    features(params)
    whole = hashes()
    assert len(whole) == 5
    shutil.rmtree(STORE)  # as DVC does with outs that do not persist
    Path("killed.json").write_text(params.model_dump_json())
    done = subprocess.run([sys.executable, "-c", KILLED, str(stage.SHARD_BYTES)], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (folder,) = PARTIAL.iterdir()
    first, second = folder / "features-00000.safetensors", folder / "features-00001.safetensors"
    flip(second)
    inode = first.stat().st_ino
    assert not STORE.exists()
    encoded.clear()
    free(monkeypatch, 300_000)  # less than for all clips, enough for those that are left
    features(params)
    assert hashes() == whole
    assert (STORE / first.name).stat().st_ino == inode, "the finished shard was kept, not made again"
    assert sum(encoded) == 15 - 4 - 3, "of the damaged shard one clip was made again, its three others were kept"


def test_a_clip_that_cannot_be_decoded_is_counted_and_fatal_only_above_the_share(prepared: Project) -> None:
    row = read_manifest(PREPARED / "train.parquet")[0]
    Path(row.media).write_bytes(b"no video")
    shutil.rmtree(STORE)
    with pytest.raises(PllavaError, match=rf"1 of 15 clips cannot be decoded(.|\n)*{row.media}"):
        features(prepared())
    params = prepared(data={"max_bad_fraction": 0.1})
    features(params)
    with pytest.raises(PllavaError, match=r"could not be encoded: .*"):
        FeatureStore(params).get(row)


def test_switched_off_it_writes_an_index_that_says_so(project: Project) -> None:
    params = project(features={"enabled": False})
    assert features(params) == STORE
    assert json.loads((STORE / "index.json").read_text()) == {"enabled": False, "reason": "features.enabled is false"}
    assert open_store(params) is None
    with pytest.raises(PllavaError, match=r"params\.yaml now says true"):
        FeatureStore(project())


def plan_of(**changes: object) -> FeaturePlan:
    values = {"clips": 100, "uses": 300, "bytes_needed": 10**9, "bytes_a_clip": 10**7, "bytes_free": 10**10, "fixed_frames": True}
    return FeaturePlan(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"uses": 199}, "looks at a clip 2.0 times, storing pays from 2"),
        ({"fixed_frames": False}, "other frames every epoch"),
        ({"bytes_free": 2 * 10**9}, r"2\.0 GB, DVC's cache included, are more than 80% of the 2\.0 GB that are free"),
    ],
)
def test_when_storing_pays(changes: dict[str, object], why: str | None) -> None:
    against = plan_of(**changes).against
    if why is None:
        assert against is None
    else:
        assert against is not None
        assert re.search(why, against)


def test_auto_decides_and_training_follows(prepared: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(STORE)
    auto = {"enabled": "auto"}
    params = prepared(features=auto)  # 6 steps of 4 clips, and 3 validations of 3: 33 looks at 15 clips
    features(params)
    assert isinstance(open_store(params), FeatureStore)
    assert "15 distinct clip(s) x 16.4 kB = 246 kB on disk" in capsys.readouterr().err

    once = prepared(features=auto, train={"steps": 3, "validate_every": 3})
    features(once)
    assert open_store(once) is None
    assert "not stored, training looks at a clip 1.2 times" in capsys.readouterr().err
    with pytest.raises(PllavaError, match=r"params\.yaml now says true"):
        open_store(prepared())

    features(prepared(features=auto, train={"sampling": "rand"}))
    assert json.loads((STORE / "index.json").read_text())["reason"].startswith("train.sampling rand")

    free(monkeypatch, 10**5)
    features(params)
    assert open_store(params) is None
    with pytest.raises(PllavaError, match="the disk is too small for the features"):
        features(prepared())


def test_what_is_stored_already_needs_no_room(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """246 kB twice fit in 620 kB; then they are there, once here and once in DVC's cache."""
    shutil.rmtree(STORE)
    free(monkeypatch, 620_000)
    features(prepared(features={"enabled": "auto"}))
    written = (STORE / "index.json").stat().st_ino
    free(monkeypatch, 130_000)
    for params in (prepared(features={"enabled": "auto"}), prepared()):
        features(params)
        assert open_store(params)
        assert (STORE / "index.json").stat().st_ino == written, "nothing was written again"


def test_a_clip_of_full_size_takes_what_the_reference_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    params = recipe.load("pllava-7b")
    stored = params.features.model_copy(update={"dtype": "bfloat16"})
    assert clip_bytes(params.model_copy(update={"features": stored})) == 18_874_368  # 18.9 MB


def test_a_second_process_leaves_the_first_ones_shards_alone(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would remove them: at its end, or at once when its settings are others."""
    shutil.rmtree(STORE)
    monkeypatch.setattr(stage, "LOCK_SECONDS", 0)
    write, refused = stage.Build._write, []

    def meanwhile(*arguments: object) -> None:
        with pytest.raises(PllavaError, match="another `pllava features` is running") as refusal:
            features(prepared(features={"enabled": True, "dtype": "bfloat16"}))
        refused.append(refusal)
        write(*arguments)

    monkeypatch.setattr(stage.Build, "_write", meanwhile)
    features(prepared())
    assert refused
    assert open_store(prepared())


def test_rows_that_share_a_clip_count_as_uses_not_as_clips(prepared: Project) -> None:
    rows = read_manifest(PREPARED / "train.parquet")
    shared: list[ManifestRow] = [replace(row, id=f"{row.id}-again") for row in rows]
    image = replace(rows[0], kind="image", media_sha256="1" * 64)
    plan = plan_features(prepared(), rows + shared, [image])
    assert plan.clips == 13
    assert plan.bytes_needed == 12 * plan.bytes_a_clip + plan.bytes_a_clip // 4
    assert plan.uses == 6 * 4 + 3 * 1


def test_rows_of_text_are_steps_that_need_no_features(prepared: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the rows are text: so are half of the samples of a step."""
    small = Path("data/raw/small")
    (small / "text.json").write_text(json.dumps([{"QA": [{"q": f"What is {n}?", "a": "A number."}]} for n in range(12)]))
    corpora = [
        {"name": "small", "annotations": small / "train.json", "media": small / "videos"},
        {"name": "text", "kind": "text", "annotations": small / "text.json"},
    ]
    for length in ({"steps": 12}, {"steps": None, "epochs": 2}):  # 2 epochs of 24 rows, 4 a step
        params = prepared(data={"train": corpora}, features={"enabled": "auto"}, train={**length, "validate_every": 12})
        prepare(params)
        features(params)
        assert "training looks at a clip 2.0 times" in capsys.readouterr().err  # 2 x 12 clips, 2 validations of 3: 30 of 15


def test_random_frames_cannot_be_stored(project: Project) -> None:
    with pytest.raises(PllavaError, match="takes other frames every epoch"):
        features(project(train={"sampling": "rand"}))


def test_without_manifest_the_next_command_is_named(project: Project) -> None:
    with pytest.raises(PllavaError, match="Write it: pllava prepare"):
        features(project())
    assert not Path(STORE).exists()
