"""All or nothing for several files: `with Undo() as undo: undo.keep("params.yaml"); ...` puts everything back when the block fails.

What is kept is on disk before anything changes, so that a killed process is undone by the next one (`recover`).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_bytes, process_is_alive, write_json

JOURNAL = Path(".state/data/undo")


class Undo:
    """Keeps files as they are, and the absence of files and folders that are not there."""

    def __init__(self, journal: Path = JOURNAL) -> None:
        self.journal = journal
        self._kept: dict[str, str | None] = {}  # path -> name of the copy; None: it was not there

    def keep(self, path: str | Path) -> None:
        """Call it before the path is written. An existing folder is not kept: it must not be changed."""
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
            _put_back(self.journal)
        shutil.rmtree(self.journal)


def recover(journal: Path = JOURNAL) -> bool:
    """Undo what a killed process left half done; whether there was anything. Raises PllavaError when that process is still at work."""
    if not journal.is_dir():
        return False
    file = journal / "journal.json"
    if file.exists():
        pid = json.loads(file.read_text())["pid"]
        if pid != os.getpid() and process_is_alive(pid):
            raise PllavaError(f"process {pid} is adding or removing a corpus ({journal}). Wait for it, then repeat the command")
        _put_back(journal)
    shutil.rmtree(journal)
    return True


def _put_back(journal: Path) -> None:
    kept = json.loads((journal / "journal.json").read_text())["kept"]
    for name, copy in reversed(kept.items()):
        path = Path(name)
        if copy is not None:
            atomic_write_bytes(path, (journal / copy).read_bytes())
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
