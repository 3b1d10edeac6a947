"""DVC keeps the files of a corpus: `track(Path("data/raw/kitchen/media"))`. Commands run in a subprocess, by argument lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pllava.core.errors import PllavaError

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
LAST_LINES = 5  # of DVC's own words in an error


def is_url(source: str) -> bool:
    return bool(URL.match(source))


def tracked_by(path: Path) -> str | None:
    """The .dvc file or stage that has this path among its outputs, or a folder above it; None when there is none."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            wanted = path.resolve()
            for out in repo.index.outs:
                if wanted == Path(out.fs_path) or Path(out.fs_path) in wanted.parents:
                    return str(out.stage.addressing)
    except NotDvcRepoError:
        raise PllavaError(f"{Path.cwd()} is no DVC project. Run inside the project folder, or make one: dvc init") from None
    except DvcException as error:
        raise PllavaError(f"DVC cannot read this project: {error}. See: dvc status") from None
    return None


def track(path: Path) -> None:
    """`dvc add` where it lies: writes <path>.dvc and a line of .gitignore."""
    dvc("add", str(path))


def bring(source: str, target: Path) -> None:
    """Fetch a URL, or copy what lies outside the project, to `target`, and track it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_url(source):
        dvc("import-url", source, str(target))
    else:
        dvc("add", "--out", str(target), str(Path(source).resolve()))


def untrack(path: Path, delete: bool) -> None:
    """`dvc remove` of <path>.dvc; the files stay unless `delete`."""
    dvc("remove", *(["--outs"] if delete else []), f"{path}.dvc")


def dvc(*arguments: str) -> str:
    """Run a DVC command in this folder; its output. Raises PllavaError with DVC's own words."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip() and "dvc.org" not in line and "Having any troubles" not in line]
        raise PllavaError(f"dvc {' '.join(arguments)} failed:\n" + "\n".join(f"  {line}" for line in words[-LAST_LINES:]))
    return done.stdout
