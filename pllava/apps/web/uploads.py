"""Files of visitors: who holds which, and the end of those that nobody holds."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.files import folder_of_process

FORGOTTEN = 3600  # seconds


class Uploads:
    """A folder of this process. Gradio puts what is uploaded into `<root>/<hash>/<name>`; two visitors with one file share it."""

    root: Path  # once it is open

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self._held: dict[str, set[Path]] = {}  # session -> files
        self._sent: Counter[Path] = Counter()  # how often a file came in without being looked at or asked about yet (arrivals.py)
        self._coming = 0  # uploads under way: the file may be there already, and its visitor not counted yet
        self._leaving: set[Path] = set()  # files to remove when none is
        self._page: set[Path] = set()  # the page's own pictures
        self._lock = threading.Lock()

    def open(self) -> Path:
        """Make the folder, and remove those of processes that ended."""
        self.root = folder_of_process(self.home)
        return self.root

    def keep_what_is_there(self) -> None:
        """The page's own pictures, which Gradio puts in the same folder: they stay."""
        self._page = {path.resolve() for path in self.files()}

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """While an upload is under way nothing is removed: it may be of a file that another visitor lets go of just now."""
        with self._lock:
            self._coming += 1
        try:
            yield
        finally:
            with self._lock:
                self._coming -= 1
                if not self._coming:
                    held = {file for files in self._held.values() for file in files}
                    leaving, self._leaving = self._leaving - held, set()
                    for file in leaving:
                        self._remove(file)

    def arrived(self, path: str | Path) -> None:
        """Somebody sent this file, and is about to look at it or to ask about it."""
        with self._lock:
            self._sent[Path(path).resolve()] += 1

    def take(self, session: str, path: str | Path, ours: bool = False) -> Path:
        """This visitor looks at this file now, and at no other. Raises PllavaError when it is not one of the uploads.

        ours: nobody sent it.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.root.resolve()) or not file.is_file():
            raise PllavaError(f"{Path(path).name} is not among the uploaded files. Upload it again")
        self.release(session, keep=file)
        self.add(session, file)
        if not ours:
            self._seen(file)
        self._sweep()
        return file

    def add(self, session: str, path: Path) -> None:
        """Another file that lives as long as this visitor's clip."""
        with self._lock:
            self._held.setdefault(session, set()).add(path)

    def copy(self, session: str, path: Path) -> Path:
        """A clip of ours as this visitor's upload: the page serves nothing from outside the folder."""
        from gradio.processing_utils import save_file_to_cache  # the place where a component of the page would put its own copy

        return self.take(session, save_file_to_cache(path, str(self.root)), ours=True)

    def release(self, session: str, keep: Path | None = None) -> None:
        """This visitor lets go of all files; those that nobody else holds are removed."""
        with self._lock:
            mine = self._held.pop(session, set())
            others = {file for files in self._held.values() for file in files}
            for file in mine - others - ({keep} if keep else set()):
                self._remove(file)

    def discard(self, path: str | Path) -> None:
        """Remove a file that was refused, unless somebody holds it."""
        file = Path(path).resolve()
        with self._lock:
            if file.is_relative_to(self.root.resolve()) and not any(file in files for files in self._held.values()):
                self._remove(file)

    def answered(self, path: str | Path) -> None:
        """A program's question about this file is answered; another program that sent the same one may be waiting with its own."""
        self._seen(Path(path).resolve())
        self.discard(path)

    def files(self) -> Iterator[Path]:
        return (Path(folder) / name for folder, _, names in os.walk(self.root) for name in names)  # what vanishes meanwhile is passed over

    def _sweep(self) -> None:
        """Remove what was uploaded a while ago and taken by nobody: by a program, or a page that was closed too early."""
        with self._lock:
            known = self._page.union(*self._held.values())
            for file in list(self.files()):  # folders go while we look
                with suppress(FileNotFoundError):
                    if file.resolve() not in known and time.time() - file.stat().st_mtime > FORGOTTEN:
                        self._sent.pop(file.resolve(), None)
                        self._remove(file)

    def _seen(self, file: Path) -> None:
        with self._lock:
            if self._sent[file] > 1:
                self._sent[file] -= 1
            else:
                del self._sent[file]

    def _remove(self, file: Path) -> None:
        if file in self._sent:
            return
        if self._coming:
            self._leaving.add(file)
            return
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if file.parent != self.root:
                file.parent.rmdir()  # only when it is empty
