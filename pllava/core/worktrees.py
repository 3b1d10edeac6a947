"""A separate folder for one run: `with workspace(root, "brave-otter") as worktree: ...; keep(worktree, "lower rate")`.

The folder is a git worktree of HEAD. It uses the DVC cache of the project folder, so DVC takes earlier results from there. Uncommitted
changes of tracked files are applied to it; untracked files are not copied (as in DVC's own experiments). `keep` saves its state as a DVC
experiment of the repository (`dvc exp show`, `dvc exp apply`). The folder is removed when the block ends.
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

from pllava.core import git
from pllava.core.errors import PllavaError
from pllava.core.files import alone, state_folder

WORKSPACES = Path(".state/workspaces")  # under the project folder
# Options of `git diff` that `git apply` needs: they override the user's git settings (colours, an external program, no prefixes).
PATCH_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")
LAST_LINES = 5  # of a message of DVC's that an error shows
MAIN = "main"  # name of the lock of the project folder itself


@dataclass(frozen=True)
class Workspace:
    """A folder for one run. `root` is the worktree's copy of the project folder `main`."""

    name: str
    root: Path
    main: Path
    commit: str
    changed: tuple[str, ...]  # tracked files that differ from the commit; their changes are in the worktree
    left_behind: tuple[str, ...]  # untracked files, which are not in the worktree

    def describe(self) -> str:
        """Lines for the log: the commit, the changed files, and the untracked files."""
        lines = [f"workspace {self.name}: commit {self.commit[:12]}"]
        if self.changed:
            lines.append(f"with changes that are not committed: {_listed(self.changed)}")
        if self.left_behind:
            lines.append(f"without files that git does not track: {_listed(self.left_behind)}")
        return "\n".join(lines)

    def environment(self) -> dict[str, str]:
        """Environment variables of a command that runs in the workspace.

        Python imports the workspace's code first. MLflow records, and records kept while MLflow is away, go to the project folder.
        """
        environment = {**os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")]))
        environment.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{self.main / '.state/mlflow/mlflow.db'}")
        environment["PLLAVA_MAIN"] = str(self.main)
        return environment


@contextmanager
def workspace(main: Path, name: str) -> Iterator[Workspace]:
    """Make a workspace, and remove it when the block ends.

    Raises PllavaError where there is no git repository or no commit, where uncommitted changes do not apply, or where the name is in use.
    """
    main = main.resolve()
    name = safe_name(name)
    workspaces = main / WORKSPACES
    state_folder(workspaces)
    folder = workspaces / name
    with alone(workspaces / f"{name}.lock", f"a workspace {name!r} is in use"):
        try:
            with FileLock(workspaces / "making.lock"):
                remove_abandoned(main, workspaces)
                worktree = _make(main, folder, name)
            yield worktree
        finally:
            remove(main, folder)
            (workspaces / f"{name}.lock").unlink(missing_ok=True)


@contextmanager
def main_workspace(main: Path, holder: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the project folder until the block ends. While another run holds it, wait, and pass that run's `holder` to `say`."""
    workspaces = main / WORKSPACES
    state_folder(workspaces)
    note = workspaces / "main.txt"
    lock = FileLock(workspaces / f"{MAIN}.lock")
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
    """Remove the workspaces of killed runs. Workspaces in use stay."""
    workspaces = main / WORKSPACES
    if workspaces.is_dir():
        with FileLock(workspaces / "making.lock"):
            remove_abandoned(main, workspaces)


def keep(worktree: Workspace, message: str) -> str:
    """Save the workspace's state as a DVC experiment; returns its name. Raises PllavaError with DVC's error message."""
    with FileLock(worktree.main / WORKSPACES / "making.lock"):  # all worktrees share the git refs that DVC writes
        known = git.run(worktree.main, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
        name = next(name for name in (worktree.name, *(f"{worktree.name}-{number}" for number in range(2, 10_000))) if name not in known)
        dvc(worktree.root, "exp", "save", "--name", name, "--message", message)
    return name


def safe_name(name: str) -> str:
    """`name` with other characters than letters, digits and "-" replaced by "-", so that git, DVC and the file system accept it."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-") or "run"


def _make(main: Path, folder: Path, name: str) -> Workspace:
    try:
        inside, commit = git.prefix(main), git.commit(main)
    except git.NoRepositoryError:
        commit = None
    if commit is None:
        raise PllavaError(f"{main} is no git repository with a commit: a run with other settings needs one. Run: git init && git commit")
    if folder.exists():
        remove(main, folder)
    git.run(main, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    top = Path(git.run(main, "rev-parse", "--show-toplevel").removesuffix("\n"))
    changes = subprocess.run(["git", "-C", str(top), "diff", *PATCH_OPTIONS, "HEAD"], capture_output=True, check=True).stdout
    if changes:
        applied = subprocess.run(["git", "-C", str(folder), "apply", "--whitespace=nowarn", "-"], input=changes, capture_output=True)
        if applied.returncode:
            raise PllavaError(f"changes that are not committed do not apply to HEAD: {applied.stderr.decode().strip()}. Commit them")
    root = folder / inside
    share_cache(main, root)
    dvc(root, "checkout", "--quiet", "--allow-missing")
    changed = git.run(top, "diff", "--name-only", "-z", "HEAD").split("\0")[:-1]
    untracked = git.run(top, "ls-files", "--others", "--exclude-standard", "-z").split("\0")[:-1]
    return Workspace(name, root, main, commit, tuple(changed), tuple(untracked))


def share_cache(main: Path, root: Path) -> None:
    """Write DVC settings in `root` that name the cache and the remotes of `main`, with absolute paths."""
    from configobj import ConfigObj
    from dvc.config import Config

    local, copy = main / ".dvc/config.local", root / ".dvc/config.local"
    if local.is_file():
        shutil.copy(local, copy)
    shared = Config(str(main / ".dvc"))  # merges all levels of settings, and makes paths absolute
    config = ConfigObj(str(copy), encoding="utf-8")  # DVC's own editor writes ASCII paths only
    cache = config.setdefault("cache", {})
    cache["dir"] = str(shared["cache"].get("dir") or main / ".dvc/cache")
    cache.setdefault("type", ["reflink", "hardlink", "copy"])
    config.setdefault("core", {})["site_cache_dir"] = str(root / ".dvc/tmp/site")  # removed together with the folder
    for remote, settings in shared["remote"].items():
        if "://" not in settings["url"]:
            config.setdefault(f'remote "{remote}"', {})["url"] = settings["url"]
    config.write()


def remove_abandoned(main: Path, workspaces: Path) -> None:
    """Remove folders of killed runs. No process holds the lock of such a folder."""
    for folder in workspaces.iterdir():
        lock = folder.with_name(f"{folder.name}.lock")
        if folder.is_dir():
            try:
                with FileLock(lock, timeout=0):
                    remove(main, folder)
                lock.unlink(missing_ok=True)
            except Timeout:
                continue


def remove(main: Path, folder: Path) -> None:
    """Remove a worktree's folder, and git's record of it."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "-C", str(main), "worktree", "prune"], capture_output=True)


def dvc(folder: Path, *arguments: str) -> str:
    """The output of a DVC command in a folder. Raises PllavaError with the end of DVC's message."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "dvc.org" not in line and "Having any troubles" not in line]
        raise PllavaError(f"dvc {' '.join(arguments)} failed:\n" + "\n".join(f"  {line}" for line in lines[-LAST_LINES:]))
    return done.stdout


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
