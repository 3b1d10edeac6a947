"""Who works in the project folder, and what a workspace of its own needs. Experiments themselves: tests/integration/test_stack.py."""

import os
import subprocess
import sys

import pytest

from pllava.core.errors import PllavaError
from pllava.core.worktrees import main_workspace, safe_name, workspace

HOLD = """
import sys, time
from pathlib import Path
from pllava.core.worktrees import main_workspace
with main_workspace(Path(sys.argv[1]), "flow run brave-otter", print):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def test_a_second_run_waits_and_says_for_whom(tmp_path):
    said = []
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "mine\n"

        def say(text):
            said.append(text)
            first.stdin.write("go\n")
            first.stdin.flush()

        with main_workspace(tmp_path, "flow run other", say):
            assert first.wait(30) == 0
    assert said == ["waiting for the workspace: flow run brave-otter works in it"]


def test_a_run_that_is_killed_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "mine\n"
        first.kill()
    said = []
    with main_workspace(tmp_path, "flow run other", said.append):
        assert said == []


def test_names_are_such_that_git_takes_them():
    assert safe_name("my run: ../../x~1") == "my-run-x-1"
    assert safe_name("..") == "run"


def test_without_git_the_next_command_is_named(tmp_path):
    with pytest.raises(PllavaError, match=r"no git repository with a commit.*git init"), workspace(tmp_path, "a"):
        pass
    assert not [path for path in (tmp_path / ".state/workspaces").iterdir() if path.is_dir()]


def test_what_git_refuses_is_told_with_its_advice(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container whose folder is another user's
    with pytest.raises(PllavaError, match=r"dubious ownership[\s\S]*safe\.directory"), workspace(tmp_path, "a"):
        pass


@pytest.mark.parametrize("setting", [("diff.external", "true"), ("diff.noprefix", "true"), ("color.ui", "always")])
def test_changes_come_along_however_git_shows_them_to_this_person(tmp_path, monkeypatch, setting):
    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    for name, value in (("user.name", "a"), ("user.email", "a@b"), setting):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{(number := int(os.environ.get('GIT_CONFIG_COUNT', 0)))}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(number + 1))
    run("git", "init")
    run(sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    run("git", "add", ".")
    run("git", "commit", "-m", "first")
    (tmp_path / "params.yaml").write_text("seed: 2\n")
    with workspace(tmp_path, "a") as place:
        assert (place.root / "params.yaml").read_text() == "seed: 2\n"
        assert place.changed == ("params.yaml",)
