"""`make status` while a stage runs: DVC, which is busy then, is no failure, and its advice to remove a lock is not passed on."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
BUSY = "ERROR: '/p/outputs/train' is busy, it is being blocked by:\n  (PID 7): dvc repro\nyou can manually remove '/p/.dvc/tmp/rwlock'"


@pytest.mark.parametrize(
    ("dvc", "code", "works", "said"),
    [
        ("Data and pipelines are up to date.", 0, True, "Data and pipelines are up to date."),
        (BUSY, 1, True, "a stage runs"),
        ("ERROR: 'dvc.yaml' is invalid", 1, False, "'dvc.yaml' is invalid"),
    ],
)
def test_status_while_a_stage_runs(tmp_path, dvc, code, works, said):
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, script in {"pllava": "true", "dvc": f'cat "{tmp_path}/said"; exit {code}'}.items():
        (tmp_path / ".venv/bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    (tmp_path / "said").write_text(dvc)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.installed"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", "-s", "status"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == works and said in done.stdout and ("rwlock" in done.stdout) is False
