"""The command line answers at once, says mistakes in one message, and keeps stdout for results."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pllava import cli
from pllava.core.errors import PllavaError

PROJECT = Path(__file__).parents[2]
COMMANDS = [
    *("code", "render", "prepare", "features", "train", "evaluate", "judge", "report"),
    *("study", "register", "gate", "promote", "rollback", "lineage", "reproduce"),
    *("ask", "demo", "deploy", "stop", "serve", "caption", "gallery", "up", "down", "status"),
    *("plan", "convert", "compose", "export", "init", "version", "doctor", "recipe", "data"),
]
HEAVY = ["torch", "transformers", "peft", "accelerate", "gradio", "mlflow", "prefect", "dvc", "pydantic", "yaml", "numpy", "pandas", "rich"]
# Time of the processor, not of the wall: other work on the machine does not count.
MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "pllava.cli", "--help"], check=True, capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def run_main(monkeypatch, *arguments: str) -> int:
    """Exit code of `pllava ARGUMENTS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["pllava", *arguments])
    monkeypatch.delenv("PLLAVA_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_help_names_every_command():
    result = CliRunner().invoke(cli.app, ["--help"])
    listed = [line.split()[0] for line in result.output.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == COMMANDS
    assert not any("..." in line for line in result.output.split("Commands:")[1].splitlines()), "a summary was cut off"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert CliRunner().invoke(cli.app, [command, "-h"]).exit_code == 0


def test_help_loads_nothing_heavy():
    code = f"import sys, pllava.cli; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_help_takes_less_than_half_a_second():
    seconds = min(float(subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True).stdout) for _ in range(3))
    assert seconds < 0.5


def test_a_users_mistake_is_one_message_and_exit_code_1(monkeypatch, tmp_path, capsys):
    params = (PROJECT / "recipes/tiny.yaml").read_text().replace("learning_rate:", "lerning_rate:")
    (tmp_path / "params.yaml").write_text(params)
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "prepare") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean 'learning_rate'" in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]


def test_without_params_the_next_command_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "train") == 1
    assert "pllava init FOLDER" in capsys.readouterr().err


def test_unknown_benchmark_lists_the_known(monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    assert run_main(monkeypatch, "evaluate", "mvbenhc") == 1
    assert "mvbench" in capsys.readouterr().err


def test_debug_keeps_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLLAVA_DEBUG", "")  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["pllava", "--debug", "train"])
    with pytest.raises(PllavaError):
        cli.main()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "out.json"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_is_one_message(monkeypatch, capsys, error):
    def full():
        raise error

    monkeypatch.setattr(cli, "app", full)
    assert run_main(monkeypatch) == 1
    assert "Make room" in (said := capsys.readouterr().err)
    assert str(error.args[-1]) in said
    assert "Traceback" not in said


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(name, force=False):
        raise ZeroDivisionError

    monkeypatch.setattr("pllava.core.recipes.use", broken)
    monkeypatch.setattr(sys, "argv", ["pllava", "recipe", "use", "tiny"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_unreadable_video_is_found_before_any_model_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(PROJECT)
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    assert run_main(monkeypatch, "ask", str(tmp_path / "clip.mp4"), "What happens?") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "clip.mp4" in captured.err
    assert "model:" not in captured.err


@pytest.mark.parametrize(("question", "why"), [("", "the question is empty"), ("a</s>b", "holds '</s>'")])
def test_a_question_that_cannot_be_asked_is_found_before_any_model_is_loaded(monkeypatch, reference, capsys, question, why):
    monkeypatch.chdir(PROJECT)
    clip, base = reference / "video/clip_short.mp4", reference / "ckpt/tiny56_base"
    assert run_main(monkeypatch, "ask", str(clip), question, "--model", str(base)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert why in captured.err
    assert "model:" not in captured.err


def test_what_is_started_from_here_phones_nobody(monkeypatch):
    for name in cli.QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "mine")
    run_main(monkeypatch, "version")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["DO_NOT_TRACK"] == "mine"
