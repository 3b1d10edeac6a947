"""Git commands in a folder: `git.run(root, "rev-parse", "HEAD")`. A refusal, such as "dubious ownership", comes with git's own advice."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pllava.core.errors import PllavaError

SECONDS = 300.0  # for a command


class NoRepositoryError(PllavaError):
    """The folder is in no git repository, or there is no git."""


def run(folder: Path, *arguments: str) -> str:
    """The output of a git command in `folder`. Raises PllavaError with git's message; NoRepositoryError without git or a repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=os.environ | {"LC_ALL": "C"})
    except FileNotFoundError:
        raise NoRepositoryError("git is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PllavaError(f"git {arguments[0]} does not work in {folder}: {error}") from None
    if done.returncode:
        kind = NoRepositoryError if "not a git repository" in done.stderr else PllavaError
        raise kind(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout


def commit(folder: Path) -> str | None:
    """The hash of HEAD; None in a repository without a commit. Raises PllavaError."""
    return run(folder, "rev-parse", "--revs-only", "HEAD").strip() or None


def prefix(folder: Path) -> Path:
    """The path of `folder` in its repository: Path(".") at the top. Raises PllavaError."""
    return Path(run(folder, "rev-parse", "--show-prefix").removesuffix("\n"))


def changed_files(folder: Path) -> list[str]:
    """Tracked files that differ from the commit, as paths relative to `folder`, sorted. Raises PllavaError."""
    inside = prefix(folder)
    entries = iter(run(folder, "status", "--porcelain", "-z", "--untracked-files=no").split("\0"))
    files = []
    for entry in entries:
        if entry:
            files.append(os.path.relpath(entry[3:], inside))
            if entry[0] in "RC":  # the old name of a renamed file follows
                next(entries)
    return sorted(files)
