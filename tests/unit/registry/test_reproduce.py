"""The folder a version is trained again in; the training itself: tests/integration/test_lineage.py."""

import subprocess
import sys

from pllava.registry.reproduce import HOME, _worktree

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
