"""Changes of several files, all or none: `with Undo() as undo: undo.keep("params.yaml"); ...` restores the files when the block fails.

The copies are on disk before the files change. After a kill, the next process restores the files (`recover`).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import psutil

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_bytes, write_json

JOURNAL = Path(".state/data/undo")


class Undo:
    """Keeps copies of files. Files and folders that do not exist yet are noted, and removed when the block fails."""

    def __init__(self, journal: Path = JOURNAL) -> None:
        self.journal = journal
        self._kept: dict[str, str | None] = {}  # path -> name of the copy; None: the path did not exist

    def keep(self, path: str | Path) -> None:
        """Call this before the path is written. An existing folder is not copied: the block must not change it."""
        path = Path(path)
        if str(path) in self._kept or path.is_dir():
            return
        copy = None
        if path.exists():
            copy = f"{len(self._kept)}.kept"
            atomic_write_bytes(self.journal / copy, path.read_bytes())
        self._kept[str(path)] = copy
        write_json(self.journal / "journal.json", {"pid": os.getpid(), "kept": self._kept})

    def __enter__(self) -> Undo:
        recover(self.journal)
        self.journal.mkdir(parents=True)
        write_json(self.journal / "journal.json", {"pid": os.getpid(), "kept": {}})
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            _restore(self.journal)
        shutil.rmtree(self.journal)


def recover(journal: Path = JOURNAL) -> bool:
    """Restore the files of a killed process; returns whether there was one. Raises PllavaError while that process still runs."""
    if not journal.is_dir():
        return False
    file = journal / "journal.json"
    if file.exists():
        pid = json.loads(file.read_text())["pid"]
        if pid != os.getpid() and psutil.pid_exists(pid):
            raise PllavaError(f"process {pid} is adding or removing a corpus ({journal}). Wait for it, then repeat the command")
        _restore(journal)
    shutil.rmtree(journal)
    return True


def _restore(journal: Path) -> None:
    kept = json.loads((journal / "journal.json").read_text())["kept"]
    for name, copy in reversed(kept.items()):
        path = Path(name)
        if copy is not None:
            atomic_write_bytes(path, (journal / copy).read_bytes())
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
