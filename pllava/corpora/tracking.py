"""Tracking of a corpus's files with DVC: `track(Path("data/raw/kitchen/media"))`. DVC commands run in a subprocess, without a shell."""

from __future__ import annotations

import re
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.worktrees import dvc

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(source: str) -> bool:
    return bool(URL.match(source))


def tracked_by(path: Path) -> str | None:
    """The .dvc file or stage with an output that is this path or a folder above it; None when there is none."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            target = path.resolve()
            for out in repo.index.outs:
                if target == Path(out.fs_path) or Path(out.fs_path) in target.parents:
                    return str(out.stage.addressing)
    except NotDvcRepoError:
        raise PllavaError(f"{Path.cwd()} is no DVC project. Run inside the project folder, or make one: dvc init") from None
    except DvcException as error:
        raise PllavaError(f"DVC cannot read this project: {error}. See: dvc status") from None
    return None


def track(path: Path) -> None:
    """`dvc add`: writes <path>.dvc and a line of .gitignore."""
    dvc(Path(), "add", str(path))


def bring(source: str, target: Path) -> None:
    """Download a URL, or copy a path outside the project, to `target`, and track `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_url(source):
        dvc(Path(), "import-url", source, str(target))
    else:
        dvc(Path(), "add", "--out", str(target), str(Path(source).resolve()))


def untrack(path: Path, delete: bool) -> None:
    """`dvc remove` of <path>.dvc; the files stay unless `delete`."""
    dvc(Path(), "remove", *(["--outs"] if delete else []), f"{path}.dvc")
