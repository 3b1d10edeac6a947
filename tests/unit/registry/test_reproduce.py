"""The folder a version is trained again in; the training itself: tests/integration/test_lineage.py."""

import os
import subprocess
import sys

import pytest

from pllava.registry.reproduce import HOME, _data, _worktree

HOLD = """
import sys
from pathlib import Path
from pllava.registry.reproduce import _worktree
with _worktree(Path(sys.argv[1]), "HEAD") as tree:
    print(tree, flush=True)
    sys.stdin.readline()
"""


def hold(root):
    return subprocess.Popen([sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("inside", ["sub", "two words/é", "a%20b/#c"])
def test_a_project_in_a_sub_folder_has_its_folder_in_the_worktree(tmp_path, inside):
    project = tmp_path / inside
    project.mkdir(parents=True)
    (project / "params.yaml").write_text("seed: 1")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--subdir"], cwd=project, check=True)
    (project / "clips").mkdir()
    (project / "clips/a.txt").write_text("a clip")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "clips"], cwd=project, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"], cwd=tmp_path, check=True)
    with _worktree(project, "HEAD") as tree:
        assert tree != project
        assert tree.is_relative_to(project / HOME)
        assert (tree / "params.yaml").read_text() == "seed: 1"
        _data(tree, dict(os.environ), print)
        assert (tree / "clips/a.txt").read_text() == "a clip"
    assert not [path for path in (project / HOME).iterdir() if path.is_dir()]


def test_what_one_that_was_killed_left_is_removed_and_what_one_at_work_has_is_not(tmp_path):
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, "commit", "-qm", "first"], cwd=tmp_path, check=True)
    with hold(tmp_path) as working, hold(tmp_path) as killed:
        kept, left = working.stdout.readline().strip(), killed.stdout.readline().strip()
        killed.kill()
        killed.wait()
        with _worktree(tmp_path, "HEAD") as tree:
            assert {str(path) for path in (tmp_path / HOME).iterdir() if path.is_dir()} == {kept, str(tree)} != {left}
        working.communicate("go\n")
    assert not [path for path in (tmp_path / HOME).iterdir() if path.is_dir()]
    assert len(subprocess.run(["git", "worktree", "list"], cwd=tmp_path, capture_output=True).stdout.splitlines()) == 1
