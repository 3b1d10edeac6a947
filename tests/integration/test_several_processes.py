"""Two real processes: over gloo, by `pllava train`, data parallel (DDP) and FSDP2, where each holds half of every weight; or one store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pllava.artifacts.feature_store import STORE
from pllava.core.files import write_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.stages.features.run import features
from pllava.stages.prepare.run import prepare
from pllava.stages.train.loop import OUTPUT, run
from pllava.stages.train.resume import FOLDER
from tests.unit.conftest import corpus, make_params, prepared, prepared_data, project  # noqa: F401  fixtures

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "recipes/accelerate" / name for name in ("cpu-2.yaml", "cpu-2-fsdp2.yaml")]
# Validation has one batch: one process has none. Clips have 1 to 4 answers, so the halves of a batch differ in supervised tokens.
SETTINGS = {"steps": 7, "checkpoint_every": 2, "validate_every": 3, "log_every": 1, "adapter": "best"}
Project = Callable[..., Params]


def start(params: Params) -> subprocess.Popen[str]:
    write_json("params.yaml", params.model_dump(mode="json"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "pllava.cli", "train"], env=env, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


def outputs() -> dict[str, str]:
    return {path.relative_to(OUTPUT).as_posix(): sha256_file(path) for path in sorted(OUTPUT.rglob("*")) if path.is_file()}


def history() -> list[dict[str, float]]:
    return [json.loads(line) for line in (OUTPUT / "history.jsonl").read_text().splitlines()]


def close_to(two: list[dict[str, float]], one: list[dict[str, float]]) -> None:
    assert [record.keys() for record in two] == [record.keys() for record in one]
    for shared, alone in zip(two, one, strict=True):
        for name in alone:
            assert shared[name] == pytest.approx(alone[name], rel=1e-5 if "loss" in name else 1e-3), (alone["step"], name)


def test_several_processes_write_the_same_store(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def store() -> dict[str, str]:
        return {path.name: sha256_file(path) for path in sorted(STORE.iterdir())}

    monkeypatch.setattr("pllava.stages.features.run.SHARD_BYTES", 4 * 4 * 16 * 64 * 4)  # four clips a shard
    shutil.rmtree(STORE)
    features(prepared())
    one = store()
    shutil.rmtree(STORE)
    features(prepared(features={"processes": 2}))
    assert store() == one


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_two_processes_give_what_one_gives_also_when_killed(prepared: Project, config: Path) -> None:  # noqa: F811
    run(prepared(train=SETTINGS))
    one, alone = history(), load_file(OUTPUT / "adapter/adapter_model.safetensors")
    shutil.rmtree("outputs")

    params = prepared(train={**SETTINGS, "accelerate": config})
    said = finish(start(params))
    held = re.search(r"FSDP2: each process holds about ([\d,]+) of ([\d,]+) weights", said)
    assert bool(held) == ("fsdp2" in config.stem)
    if held:  # all but the tower is shared out
        here, of = (int(number.replace(",", "")) for number in held.groups())
        assert here < 0.75 * of
    close_to(history(), one)
    shared = load_file(OUTPUT / "adapter/adapter_model.safetensors")
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=0, atol=1e-4, msg=name)
    whole = outputs()
    shutil.rmtree("outputs")

    process = start(params)
    while not (FOLDER / "step-00000002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate()
    assert not OUTPUT.exists()
    assert "goes on after step" in finish(start(params))
    assert outputs() == whole


def test_bad_clips_of_all_processes_count(prepared: Project) -> None:  # noqa: F811
    """One epoch: each process meets but some of them."""
    bad = ("0", "3", "6", "9")
    for name in bad:
        Path(f"data/raw/small/videos/train/{name}.mp4").unlink()
    train = {**SETTINGS, "steps": 3, "max_bad_fraction": 0.4, "accelerate": CONFIGS[0]}
    finish(start(prepared(features={"enabled": False}, train=train)))
    assert "4, replaced by others: small:0, small:3, small:6, small:9" in (OUTPUT / "summary.md").read_text()


def test_shared_out_weights_take_text_stills_and_clips(prepared: Project) -> None:  # noqa: F811
    """One process may have text alone in its micro-batch, the other clips and stills: neither waits for the other."""
    small = Path("data/raw/small")
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 30, 30)).save(small / "still.png")
    (small / "stills.json").write_text(json.dumps([{"image": "still.png", "QA": [{"q": "What?", "a": "A colour."}]}]))
    text = [{"QA": [{"q": f"What is {n}?", "a": f"A number, {n}."}]} for n in range(9)]
    (small / "text.json").write_text(json.dumps(text))
    corpora = [
        {"name": "small", "annotations": small / "train.json", "media": small / "videos", "max_rows": 3},
        {"name": "stills", "kind": "image", "annotations": small / "stills.json", "media": small},
        {"name": "text", "kind": "text", "annotations": small / "text.json"},
    ]
    train = {"steps": 4, "batch_size": 4, "gradient_accumulation": 2, "gradient_checkpointing": "blocks", "log_every": 1, "packing": True}
    params = prepared(data={"train": corpora}, features={"enabled": False}, train=train)
    prepare(params)
    shutil.rmtree(STORE)
    features(params)
    run(params)
    one = history()
    shutil.rmtree("outputs")
    finish(start(params.model_copy(update={"train": params.train.model_copy(update={"accelerate": CONFIGS[1]})})))
    close_to(history(), one)
