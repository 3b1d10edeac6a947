"""A stopped training goes on exactly, or says why it will not."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.core.signals import Stopped
from pllava.stages.train import resume
from pllava.stages.train.logger import TrainLogger
from pllava.stages.train.loop import OUTPUT, run
from pllava.stages.train.resume import FOLDER, Checkpoints, read
from pllava.stages.train.state import State

Project = Callable[..., Params]
TRAIN = {"steps": 8, "checkpoint_every": 3, "log_every": 4, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}


def outputs() -> dict[str, str]:
    return {path.relative_to(OUTPUT).as_posix(): sha256_file(path) for path in sorted(OUTPUT.rglob("*")) if path.is_file()}


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Tell the next training, and no other, to end after so many steps: SIGTERM while it is in the last of them."""
    step = TrainLogger.step

    def ask(steps: int) -> None:
        begun: list[int] = []

        def told(self: TrainLogger, number: int) -> Any:
            begun.append(number)
            if len(begun) == steps:
                signal.raise_signal(signal.SIGTERM)
            return step(self, number)

        monkeypatch.setattr(TrainLogger, "step", told)

    return ask


def test_a_stopped_training_ends_in_the_same_bytes(prepared: Project, stop_after: Callable[[int], None]) -> None:
    params = prepared(train=TRAIN)
    run(params)
    expected = outputs()
    for step in (2, 5):  # between records of the loss and between checkpoints
        stop_after(step)
        with pytest.raises(Stopped, match=f"stopped after step {step} of 8"):
            run(params, fresh=True)
        assert [folder.name for folder in sorted(FOLDER.glob("step-*"))][-1] == f"step-{step:08d}"
        stop_after(100)
        torch.manual_seed(1234)  # whatever the process drew before
        run(params)
        assert outputs() == expected
    assert len(list(FOLDER.glob("step-*"))) == 2
    run(params)  # a finished one begins anew
    assert outputs() == expected


def test_another_training_is_refused_with_the_difference(prepared: Project, stop_after: Callable[[int], None]) -> None:
    stop_after(2)
    with pytest.raises(Stopped):
        run(prepared(train=TRAIN))
    with pytest.raises(PllavaError) as refusal:
        run(prepared(train={**TRAIN, "learning_rate": 1e-3, "checkpoint_every": 1}, seed=6))
    said = str(refusal.value)
    assert "train.learning_rate: 0.002 when it began, 0.001 now" in said
    assert "seed: 5 when it began, 6 now" in said
    assert "checkpoint_every" not in said
    assert "pllava train --fresh" in said

    Path("data/prepared/validation.parquet").write_bytes(Path("data/prepared/train.parquet").read_bytes())
    with pytest.raises(PllavaError, match=r"data/prepared/validation\.parquet"):
        run(prepared(train=TRAIN))
    assert list(FOLDER.glob("step-*")), "nothing is lost by a refusal"


def test_a_damaged_checkpoint_is_passed_over(
    prepared: Project, stop_after: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    params = prepared(train=TRAIN)
    run(params)
    expected = outputs()
    stop_after(7)
    with pytest.raises(Stopped):
        run(params, fresh=True)
    newest = sorted(FOLDER.glob("step-*"))[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    stop_after(100)
    run(params)
    said = capfd.readouterr().err
    assert "step-00000007 is damaged" in said
    assert "goes on after step 6 of 8" in said
    assert outputs() == expected


def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(tmp_path: Path) -> None:
    """Stopped again before the step of the damaged one: what is saved then stays."""
    kept = Checkpoints({"seed": 1}, 2, tmp_path)
    kept.prepare()
    for step in (50, 100):
        kept.save(step, State({}, {}))
    (tmp_path / "step-00000100" / "state.json").unlink()
    again = Checkpoints({"seed": 1}, 1, tmp_path)
    assert again.prepare() == tmp_path / "step-00000050"
    again.save(60, State({}, {}))
    assert again.prepare() == tmp_path / "step-00000060"


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_record_of_the_run_can_be_dropped(tmp_path: Path, text: str) -> None:
    kept = Checkpoints({"seed": 1}, 2, tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(PllavaError, match="pllava train --fresh"):
        kept.prepare()
    assert kept.prepare(fresh=True) is None


@pytest.fixture
def unfinished(tmp_path: Path) -> Checkpoints:
    """The checkpoints of a training that has saved steps 1 and 2."""
    kept = Checkpoints({"seed": 1}, 2, tmp_path)
    kept.prepare()
    for step in (1, 2):
        kept.save(step, State({"weights": torch.full((2,), float(step))}, {}))
    return kept


def steps(kept: Checkpoints) -> list[str]:
    return sorted(path.name for path in kept.folder.glob("step-*"))


def test_the_newest_checkpoint_is_taken(unfinished: Checkpoints) -> None:
    folder = unfinished.prepare()
    assert folder == unfinished.folder / "step-00000002"
    assert read(folder).values["step"] == 2
    assert read(folder).tensors["weights"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["removed", "one byte"])
def test_a_checkpoint_with_a_damaged_file_is_not_taken(unfinished: Checkpoints, file: str, damage: str) -> None:
    path = unfinished.folder / "step-00000002" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "one byte":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert unfinished.prepare() == unfinished.folder / "step-00000001"


def test_the_oldest_checkpoint_goes_when_there_are_more_than_kept(unfinished: Checkpoints) -> None:
    unfinished.save(3, State({}, {}))
    assert steps(unfinished) == ["step-00000002", "step-00000003"]


def test_a_save_that_fails_leaves_no_checkpoint(unfinished: Checkpoints) -> None:
    def fail(folder: Path) -> None:
        assert (folder / "state.safetensors").is_file()
        assert not (folder / "manifest.json").exists(), "the manifest is written last"
        assert steps(unfinished) == ["step-00000001", "step-00000002"], "a folder appears whole"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unfinished.save(3, State({}, {}), fail)
    assert steps(unfinished) == ["step-00000001", "step-00000002"]


def test_what_else_a_checkpoint_holds_is_in_its_manifest(unfinished: Checkpoints) -> None:
    def more(folder: Path) -> None:
        (folder / "deepspeed").mkdir()
        (folder / "deepspeed" / "part").write_bytes(b"x")

    folder = unfinished.save(3, State({}, {}), more)
    assert set(read_json(folder / "manifest.json")) == {"state.safetensors", "state.json", "deepspeed/part"}


@pytest.mark.parametrize("end", ["finished", "fresh", "discarded"])
def test_a_training_that_is_over_begins_anew(unfinished: Checkpoints, end: str) -> None:
    if end == "finished":
        unfinished.finish()
    if end == "discarded":
        unfinished.discard()
    assert unfinished.prepare(fresh=end == "fresh") is None
    assert steps(unfinished) == []


def test_an_unfinished_training_of_other_settings_is_refused_and_kept(unfinished: Checkpoints) -> None:
    with pytest.raises(PllavaError, match="seed: 1 when it began, 2 now"):
        Checkpoints({"seed": 2}, 2, unfinished.folder).prepare()
    assert steps(unfinished) == ["step-00000001", "step-00000002"]


def test_a_second_training_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LOCK_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    with resume.sole_training(), pytest.raises(PllavaError, match="another training is running"):  # noqa: SIM117
        with resume.sole_training():
            pass


WHERE: dict[str, Any] = {"processes": 1, "device": "cpu", "init_from": None, "sharing": None}


@pytest.mark.parametrize(
    "changed",
    [{"processes": 2}, {"device": "cuda"}, {"init_from": "a" * 64}, {"sharing": "FSDP2"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_place_or_start_is_another_training(prepared: Project, changed: dict[str, Any]) -> None:
    params = prepared(train=TRAIN)
    assert resume.fingerprint(params, **WHERE | changed) != resume.fingerprint(params, **WHERE)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 6}, {"train": {**TRAIN, "steps": 9}}, {"model": {"pooling_shape": (4, 1, 1)}}, {"model": {"template": "vicuna"}}],
    ids=str,
)
def test_another_setting_is_another_training(prepared: Project, changed: dict[str, Any]) -> None:
    assert resume.fingerprint(prepared(train=TRAIN), **WHERE) != resume.fingerprint(prepared(**{"train": TRAIN} | changed), **WHERE)


@pytest.mark.parametrize("setting", ["checkpoint_every", "keep_checkpoints"])
def test_how_often_a_checkpoint_is_saved_is_no_other_training(prepared: Project, setting: str) -> None:
    other = prepared(train={**TRAIN, setting: 7})
    assert resume.fingerprint(other, **WHERE) == resume.fingerprint(prepared(train=TRAIN), **WHERE)


def test_other_weights_under_the_same_name_are_another_training(prepared: Project) -> None:
    shutil.copytree(prepared().model.base, "base")
    params = prepared(model={"base": "base"})
    before = resume.fingerprint(params, **WHERE)
    weights = next(Path("base").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert resume.fingerprint(params, **WHERE) != before


def test_the_best_weights_and_the_losses_since_the_record_outlive_a_stop(prepared: Project, stop_after: Callable[[int], None]) -> None:
    """The lowest validation loss comes before the stop, so only the checkpoint knows its weights."""
    params = prepared(train={**TRAIN, "validate_every": 1, "learning_rate": 0.3, "adapter": "best"})
    run(params)
    expected = outputs()
    stop_after(5)
    with pytest.raises(Stopped):
        run(params, fresh=True)
    stop_after(100)
    run(params)
    assert outputs() == expected


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    kept = Checkpoints({"seed": 1}, 1, tmp_path)
    kept.prepare()
    last = kept.save(1, State({}, {}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(PllavaError, match=r"step-00000002 cannot be written: .*Make room and run the same command"):
            kept.save(2, State({"weights": torch.zeros(10_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept.prepare() == last
