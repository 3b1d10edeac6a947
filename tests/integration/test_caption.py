"""Captions of a folder: killed and resumed, and by two Ray workers, they are the bytes of one undisturbed run."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flows import ROOT
from pllava.apps.caption.folder import caption_all
from pllava.apps.caption.job import make_job
from pllava.core.params import load_params
from pllava.stages.render.video_writer import write_mp4

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
BASE = ROOT / "tests" / "reference" / "ckpt" / "tiny56_base"
CLIPS = 24


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        frames = np.random.default_rng(number).integers(0, 255, (1, 32, 32, 3), np.uint8).repeat(8, 0)
        write_mp4(folder / f"{number:03d} ü.mp4", frames, fps=8)
    (folder / "010 junk.mp4").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    job, _ = make_job(load_params(ROOT / "params.yaml"), str(BASE), max_new_tokens=12, batch_size=2, question="What happens?")
    return caption_all([clips], out, job, console=Console(quiet=True))


def test_killed_and_resumed(clips, undisturbed, tmp_path):
    out = tmp_path / "out.jsonl"
    settings = ["--model", str(BASE), "--max-new-tokens", "12", "--batch-size", "2", "--question", "What happens?"]
    command = [sys.executable, "-m", "pllava.cli", "caption", str(clips), "--out", str(out), *settings]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    done = 0
    while not done and process.poll() is None:
        time.sleep(0.01)
        if (progress := tmp_path / ".out.jsonl.progress").exists():
            with sqlite3.connect(f"file:{progress}?mode=ro", uri=True) as database:
                try:
                    done = database.execute("SELECT COUNT(*) FROM rows").fetchone()[0]
                except sqlite3.OperationalError:  # its tables are not there yet
                    done = 0
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < done < CLIPS
    assert not out.exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert again.returncode == 1, again.stderr  # a video failed
    assert "are captioned already" in again.stderr
    assert f"{CLIPS} of {CLIPS + 1} videos captioned" in again.stderr
    assert out.read_bytes() == undisturbed.out.read_bytes()
    assert (tmp_path / "out.failures.jsonl").read_bytes() == undisturbed.failures.read_bytes()


@pytest.mark.parametrize("runner", ["thread", "ray"])
def test_two_workers(runner, clips, undisturbed, tmp_path, monkeypatch, prefect_server):
    from flows.caption import CaptionForm, caption

    monkeypatch.chdir(ROOT)
    if runner == "ray":
        pytest.importorskip("prefect_ray")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    out = tmp_path / "out.jsonl"
    form = CaptionForm(
        paths=[str(clips)], output=str(out), model=str(BASE), question="What happens?", max_new_tokens=12, batch_size=2, runner=runner
    )
    state = caption(form, return_state=True)
    assert state.is_completed()
    assert "1 failed" in state.message
    assert out.read_bytes() == undisturbed.out.read_bytes()
    assert Path(tmp_path / "out.failures.jsonl").read_bytes() == undisturbed.failures.read_bytes()
