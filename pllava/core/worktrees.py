"""A folder of its own for one run: `with workspace(root, "brave-otter") as place: ...; keep(place, "lower rate")`.

It is a git worktree of HEAD with the DVC cache of the main workspace, so what was computed before is taken from there. As for DVC's own
experiments, changes of tracked files that are not committed come along; files git does not track do not. What is kept is a DVC experiment
of the repository (`dvc exp show`, `dvc exp apply`); the folder is removed in any case.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pllava.core.errors import PllavaError

PLACE = Path(".state/workspaces")  # under the project folder
# For `git apply`, whatever the user's own settings show a person (colours, another program, no prefixes).
AS_A_PATCH = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")
MAIN = "main"  # the lock of the project folder itself


@dataclass(frozen=True)
class Workspace:
    """`root` has the project's files; `main` is the project folder it was made from."""

    name: str
    root: Path
    main: Path
    commit: str
    changed: tuple[str, ...]  # tracked files that differ from the commit, and came along
    left_behind: tuple[str, ...]  # files git does not track, which did not

    def describe(self) -> str:
        lines = [f"workspace {self.name}: commit {self.commit[:12]}"]
        if self.changed:
            lines.append(f"with changes that are not committed: {_listed(self.changed)}")
        if self.left_behind:
            lines.append(f"without files that git does not track: {_listed(self.left_behind)}")
        return "\n".join(lines)

    def environment(self) -> dict[str, str]:
        """What a command in here sees: this folder's code first, and the project's MLflow records, also those MLflow has missed."""
        environment = {**os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")]))
        environment.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{self.main / '.state/mlflow/mlflow.db'}")
        environment["PLLAVA_MAIN"] = str(self.main)
        return environment


@contextmanager
def workspace(main: Path, name: str) -> Iterator[Workspace]:
    """Make a workspace, and remove it when the block ends. Raises PllavaError: no git, no commit, or changes that do not apply."""
    main = main.resolve()
    name = safe_name(name)
    place = main / PLACE
    place.mkdir(parents=True, exist_ok=True)
    folder = place / name
    with _held(place / f"{name}.lock", f"a workspace {name!r} is in use"):
        try:
            with FileLock(place / "making.lock"):
                remove_abandoned(main, place)
                made = _make(main, folder, name)
            yield made
        finally:
            remove(main, folder)
            (place / f"{name}.lock").unlink(missing_ok=True)


@contextmanager
def main_workspace(main: Path, holder: str, say: Callable[[str], None]) -> Iterator[None]:
    """The project folder for one run at a time: wait, and say for whom, while another one works in it."""
    place = main / PLACE
    place.mkdir(parents=True, exist_ok=True)
    note = place / "main.txt"
    lock = FileLock(place / f"{MAIN}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for the workspace: {note.read_text() if note.is_file() else 'another run'} works in it")
        lock.acquire()
    try:
        note.write_text(holder)
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def tidy(main: Path) -> None:
    """Remove what runs that were killed have left. Needs no workspace to be in use nor to be free."""
    place = main / PLACE
    if place.is_dir():
        with FileLock(place / "making.lock"):
            remove_abandoned(main, place)


def keep(place: Workspace, message: str) -> str:
    """Make the workspace's state a DVC experiment and return its name. Raises PllavaError with what DVC says."""
    with FileLock(place.main / PLACE / "making.lock"):  # DVC writes refs that all worktrees share
        known = _git(place.main, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
        name = next(name for name in (place.name, *(f"{place.name}-{number}" for number in range(2, 10_000))) if name not in known)
        _dvc(place.root, "exp", "save", "--name", name, "--message", message)
    return name


def safe_name(name: str) -> str:
    """A name that git, DVC and the file system accept."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-") or "run"


def _make(main: Path, folder: Path, name: str) -> Workspace:
    try:
        top = Path(_git(main, "rev-parse", "--show-toplevel").strip())
        commit = _git(main, "rev-parse", "--verify", "HEAD").strip()
    except (PllavaError, FileNotFoundError):
        raise PllavaError(
            f"{main} is no git repository with a commit: a run with other settings needs one. Run: git init && git commit"
        ) from None
    if folder.exists():
        remove(main, folder)
    _git(main, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    changes = subprocess.run(["git", "-C", str(top), "diff", *AS_A_PATCH, "HEAD"], capture_output=True, check=True).stdout
    if changes:
        applied = subprocess.run(["git", "-C", str(folder), "apply", "--whitespace=nowarn", "-"], input=changes, capture_output=True)
        if applied.returncode:
            raise PllavaError(f"changes that are not committed do not apply to HEAD: {applied.stderr.decode().strip()}. Commit them")
    root = folder / main.relative_to(top.resolve())
    share_cache(main, root)
    _dvc(root, "checkout", "--quiet", "--allow-missing")
    changed = _git(top, "diff", "--name-only", "HEAD").splitlines()
    untracked = _git(top, "ls-files", "--others", "--exclude-standard").splitlines()
    return Workspace(name, root, main, commit, tuple(changed), tuple(untracked))


def share_cache(main: Path, root: Path) -> None:
    """The workspace's own DVC settings: the main one's cache, and its remotes, whose paths may be relative to it."""
    from dvc.config import Config

    local = main / ".dvc/config.local"
    if local.is_file():
        shutil.copy(local, root / ".dvc/config.local")
    shared = Config(str(main / ".dvc"))  # all levels, paths made absolute
    with Config(str(root / ".dvc"), validate=False).edit("local", validate=False) as config:
        config.setdefault("cache", {})["dir"] = str(shared["cache"].get("dir") or main / ".dvc/cache")
        config["cache"].setdefault("type", ["reflink", "hardlink", "copy"])
        config.setdefault("core", {})["site_cache_dir"] = str(root / ".dvc/tmp/site")  # goes with the folder
        for remote, settings in shared["remote"].items():
            if "://" not in settings["url"]:
                config.setdefault("remote", {}).setdefault(remote, {})["url"] = settings["url"]


def remove_abandoned(main: Path, place: Path) -> None:
    """Folders of runs that were killed: nobody holds their lock."""
    for folder in place.iterdir():
        lock = folder.with_name(f"{folder.name}.lock")
        if folder.is_dir():
            try:
                with FileLock(lock, timeout=0):
                    remove(main, folder)
                lock.unlink(missing_ok=True)
            except Timeout:
                continue


def remove(main: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "-C", str(main), "worktree", "prune"], capture_output=True)


@contextmanager
def _held(path: Path, taken: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PllavaError(taken) from None
    try:
        yield
    finally:
        lock.release()


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise PllavaError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise PllavaError(f"dvc {arguments[0]} failed in {folder}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
