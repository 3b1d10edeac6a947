"""A folder is there whole or not at all, whatever stopped the process that wrote it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.core.files import UMASK, alone, atomic_dir, folder_of_process, read_json, state_folder

KILLED = """
import os, pathlib, sys
from pllava.core.files import atomic_dir
with atomic_dir(sys.argv[1]) as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), 9)
"""

WAITING = """
import pathlib, sys
from pllava.core.files import folder_of_process
print(folder_of_process(pathlib.Path(sys.argv[1]), "up-"), flush=True)
sys.stdin.read()
"""


def write(path: Path, text: str) -> None:
    with atomic_dir(path) as folder:
        (folder / "file").write_text(text)


def test_a_failing_block_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
        raise RuntimeError
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed_and_the_old_folder_stays(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    ours = folder_of_process(tmp_path, "up-")
    assert theirs.is_dir()
    assert theirs != ours
    other.kill()
    other.communicate()
    third = folder_of_process(tmp_path, "up-")
    assert sorted(tmp_path.iterdir()) == sorted([ours, third])


def test_killed_between_the_renames_brings_the_old_folder_back(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path / f".out.{gone.pid}.before.partial", "old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "secretive").touch(0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out" / "secretive").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_who_waits_for_another_says_so_at_once(tmp_path: Path):
    script = """
import sys
from pathlib import Path
from pllava.core.files import alone
with alone(Path(sys.argv[1]), "another is at it", 60):
    print("at work")
"""
    with alone(tmp_path / "lock", "this test"):
        other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "lock")], stdout=-1, stderr=-1, text=True)
        assert other.stderr
        assert other.stderr.readline() == f"another is at it (it holds {tmp_path / 'lock'}): waiting up to 60 s for its end\n"
        assert other.poll() is None
    assert other.communicate()[0] == "at work\n"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"{", b""])
def test_json_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PllavaError, match=r"a\.json is not JSON: .*write it again") as refused:
        read_json(tmp_path / "a.json")
    assert len(str(refused.value)) < 500


def test_only_the_owner_reads_what_a_project_keeps(tmp_path, monkeypatch):
    """Also what an earlier version left open to all; what is no database and no log keeps its mode, for nobody else comes to it."""
    old = {"mlflow/mlflow.db": 0o644, "logs/demo.log.1": 0o664, "prepare/media.sqlite-wal": 0o644, "mlflow/artifacts/weights": 0o644}
    for name, mode in old.items():
        file = tmp_path / ".state" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.chmod(mode)
    (tmp_path / ".state").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    state_folder(Path(".state/new/one"))
    modes = {name: (tmp_path / ".state" / name).stat().st_mode & 0o777 for name in old}
    assert modes == dict.fromkeys(old, 0o600) | {"mlflow/artifacts/weights": 0o644}
    assert (tmp_path / ".state").stat().st_mode & 0o777 == 0o700
    state_folder(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o777 & ~UMASK
