"""`pllava train` runs the loop under accelerate, and takes it along when it is told to end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pllava.errors import PllavaError
from pllava.params import Params, load_params
from pllava.train.launch import PARAMS_FILE, command, end_tree, train

Project = Callable[..., Params]


def test_command_is_a_list_and_the_params_arrive_whole(project: Project) -> None:
    params = project()
    words = command(params)
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    assert words[-4:] == ["-m", "pllava.train", "--params", str(PARAMS_FILE)]
    assert words[words.index("--num_processes") + 1] == "1"
    with pytest.raises(PllavaError, match="exit code 1"):  # nothing is prepared: the loop says so and ends
        train(params)
    assert load_params(PARAMS_FILE) == params
    assert not Path("outputs/train").exists()


def test_training_through_accelerate(prepared: Project) -> None:
    folder = train(prepared(train={"steps": 2}))
    assert (folder / "adapter" / "manifest.json").exists()


def test_the_whole_tree_ends(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script])
    process = psutil.Process(parent.pid)
    for _ in range(600):
        if process.children():
            break
        time.sleep(0.1)
    (child,) = process.children()
    end_tree(parent.pid)
    parent.wait()
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
    end_tree(parent.pid)  # already gone: nothing to do
