"""A training that is killed and started again ends in the bytes of one that was not. Real processes, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pllava.core.files import write_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from tests.unit.conftest import corpus, make_params, prepared, prepared_data, project  # noqa: F401  fixtures

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CHECKPOINTS = Path(".state/train/checkpoints")
SETTINGS = {
    "steps": 14,
    "checkpoint_every": 3,
    "validate_every": 5,
    "log_every": 4,  # not a divisor of 3: losses since the last record are part of a checkpoint
    "turns": "independent",
    "adapter": "best",
    "lora": {"r": 4, "alpha": 8, "dropout": 0.2},  # dropout: the random state counts
}


def start(params: Params) -> subprocess.Popen[str]:
    write_json("params.json", params.model_dump(mode="json"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "pllava.stages.train", "--params", "params.json"], env=env, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], pattern: str) -> None:
    """Until a path of this pattern is among the checkpoints."""
    while not any(CHECKPOINTS.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.0005)


def outputs() -> dict[str, str]:
    root = Path("outputs/train")
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_killed_at_any_moment_it_ends_in_the_same_bytes(prepared: Callable[..., Params]) -> None:  # noqa: F811
    params = prepared(train=SETTINGS)
    whole = start(params)
    assert whole.wait() == 0, whole.communicate()[1]
    expected = outputs()
    assert {"adapter/adapter_model.safetensors", "history.jsonl", "summary.md", "loss.png"} <= set(expected)
    shutil.rmtree("outputs")

    # kill -9: while the first checkpoint is written, after the second, while a later one is written
    for moment in (".step-00000003.*", "step-00000006", ".step-00000009.*"):
        process = start(params)
        wait_for(process, moment)
        process.kill()
        process.wait()
        assert not Path("outputs/train").exists()

    process = start(params)  # SIGTERM: saves after the step it is in, and says so
    wait_for(process, "step-00000009")
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143, said
    assert "goes on after step" in said
    assert "the same command goes on from there" in said
    assert not list(CHECKPOINTS.glob(".step-*"))
    assert not Path("outputs/train").exists()

    process = start(params)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "goes on after step" in said
    assert outputs() == expected
    assert len(list(CHECKPOINTS.glob("step-*"))) == 2
    assert json.loads((CHECKPOINTS / "run.json").read_text())["finished"] is True


def test_a_command_that_dies_takes_its_training_along(prepared: Callable[..., Params]) -> None:  # noqa: F811
    """`pllava train`, accelerate and the loop are three processes: none goes on unseen, and what it had done is saved."""
    import psutil

    write_json("params.yaml", prepared(train={**SETTINGS, "steps": 5000, "log_every": 1000}).model_dump(mode="json"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen([sys.executable, "-m", "pllava.cli", "train"], env=env)
    while not any(CHECKPOINTS.glob("step-*")):
        assert command.poll() is None
        time.sleep(0.01)
    below = psutil.Process(command.pid).children(recursive=True)
    assert len(below) >= 2
    command.kill()
    command.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    newest = json.loads((sorted(CHECKPOINTS.glob("step-*"))[-1] / "state.json").read_text())
    assert newest["step"] >= 3
    assert json.loads((CHECKPOINTS / "run.json").read_text())["finished"] is False


def test_told_to_end_while_workers_decode_it_saves(prepared: Callable[..., Params]) -> None:  # noqa: F811
    """SIGTERM to `pllava train` goes to all it started, the processes that decode included: the step ends and is saved all the same."""
    params = prepared(train={**SETTINGS, "steps": 5000, "log_every": 1000}, features={"enabled": False}, data={"workers": 2})
    write_json("params.yaml", params.model_dump(mode="json"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen([sys.executable, "-m", "pllava.cli", "train"], env=env, stderr=subprocess.PIPE, text=True)
    wait_for(command, "step-*")
    command.send_signal(signal.SIGTERM)
    said = command.communicate()[1]
    assert "the same command goes on from there" in said, said
    assert "Traceback" not in said, said
    assert command.returncode == 130


def test_told_to_end_by_the_flow_it_saves_though_its_step_takes_long(prepared: Callable[..., Params]) -> None:  # noqa: F811
    """The flow's own way: below a shell that dies at once, as `dvc repro` does, told twice, in a step of 4 s more."""
    import psutil

    from pllava.core.command import end_all, stream

    params = prepared(train={**SETTINGS, "steps": 5000, "log_every": 1000, "checkpoint_every": 4000})
    write_json("params.yaml", params.model_dump(mode="json"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    lines: list[str] = []
    command = ["sh", "-c", f"{sys.executable} -m pllava.cli train; true"]
    thread = threading.Thread(target=stream, args=(command, Path.cwd(), env, lines.append))
    thread.start()
    while not (CHECKPOINTS / "run.json").exists():
        assert thread.is_alive(), lines
        time.sleep(0.05)
    time.sleep(5)
    below = psutil.Process().children(recursive=True)
    (training,) = [
        process
        for process in below
        if "-m pllava.stages.train --params" in " ".join(process.cmdline()) and "accelerate" not in str(process.cmdline())
    ]
    training.suspend()
    threading.Timer(2, lambda: [process.terminate() for process in below if process.is_running() and process != training]).start()
    threading.Timer(4, training.resume).start()
    end_all()
    thread.join(60)
    assert not thread.is_alive()
    said = "\n".join(lines)
    assert "the same command goes on from there" in said, said
    assert "Traceback" not in said, said
    assert len(list(CHECKPOINTS.glob("step-*"))) == 1
    assert not [process for process in below if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
