"""A stopped training goes on exactly, or says why it will not."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.core.signals import Stopped
from pllava.stages.train.logger import TrainLogger
from pllava.stages.train.loop import OUTPUT, run
from pllava.stages.train.resume import FOLDER, Checkpoints
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


def test_a_damaged_record_of_the_run_can_be_dropped(tmp_path: Path) -> None:
    kept = Checkpoints({"seed": 1}, 2, tmp_path)
    for text in ("{", "{}", "[]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(PllavaError, match="pllava train --fresh"):
            kept.prepare()
        assert kept.prepare(fresh=True) is None


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
