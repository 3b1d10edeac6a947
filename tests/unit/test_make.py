"""Make: a stage that runs is no failure of `make status`, and a folder that was moved gets an environment of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pllava.core.quiet import QUIET

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
    assert (done.returncode == 0) == works
    assert said in done.stdout
    assert ("rwlock" in done.stdout) is False


VENV = """#!/bin/sh
case "$*" in *venv*) ;; *) exit 0 ;; esac
mkdir -p .venv/bin
printf '#!/bin/sh\\n' | tee .venv/bin/python .venv/bin/pllava .venv/bin/dvc > /dev/null
chmod +x .venv/bin/*
echo "command = python3 -m venv $PWD/.venv" > .venv/pyvenv.cfg
"""


def test_a_folder_that_was_moved_makes_its_programs_anew(tmp_path):
    """They would start the interpreter of the folder that is gone, or of another copy."""
    first, second = tmp_path / "a folder", tmp_path / "another"
    first.mkdir()
    shutil.copy(MAKEFILE, first)
    for name in ("requirements.lock", "pyproject.toml", "python"):
        (first / name).write_text(VENV if name == "python" else name)
    (first / "python").chmod(0o755)

    def status(folder):
        command = ["make", "-s", "status", "PYTHON=./python"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    assert "installing" in status(first)
    assert "installing" not in status(first)
    first.rename(second)
    assert "made anew" in status(second)
    assert "made anew" not in status(second)


def test_make_keeps_programs_quiet_as_the_command_line_does(tmp_path):
    """The values of quiet.env reach what make starts."""
    shutil.copy(MAKEFILE, tmp_path)
    shutil.copytree(MAKEFILE.parent / "pllava/core", tmp_path / "pllava/core")
    with (tmp_path / "Makefile").open("a") as file:
        file.write("environment:\n\t@env\n")
    done = subprocess.run(
        ["make", "-s", "environment"], cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert QUIET.items() <= environment.items()
