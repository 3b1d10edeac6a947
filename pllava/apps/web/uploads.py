"""Files that visitors uploaded. A file is removed when no visitor holds it any more."""

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

FORGOTTEN = 3600  # seconds; an older file that no visitor took is removed
QUOTA = 1 << 30  # bytes of the files that no visitor took; the oldest go first
ROOM = 400 << 20  # bytes of files that are being uploaded, or whose upload broke off


class Uploads:
    """The upload folder of this process. Gradio stores an upload as `<root>/<hash>/<name>`, so equal uploads share one file."""

    root: Path  # set by `open`

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self._held: dict[str, set[Path]] = {}  # session -> files
        self._unused: Counter[Path] = Counter()  # file -> uploads of it whose sender has not looked at it or asked about it yet
        self._receiving: list[
            float
        ] = []  # when each began, in seconds since 1970: uploads under way; a file may be on disk before its upload is counted in `_unused`
        self._to_remove: set[Path] = set()  # removed when the last upload under way ends
        self._page: set[Path] = set()  # the page's own pictures
        self._lock = threading.Lock()

    def open(self) -> Path:
        """Make the folder, and remove the folders of processes that ended. Returns the folder."""
        self.root = folder_of_process(self.home)
        return self.root

    def keep_what_is_there(self) -> None:
        """Never remove the files that are in the folder now: the page's own pictures, which Gradio puts there."""
        self._page = {path.resolve() for path in self.files()}

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Remove no file during an upload: the upload may be of the file that another visitor releases at this moment."""
        began = time.time()
        with self._lock:
            self._receiving.append(began)
        try:
            yield
        finally:
            with self._lock:
                self._receiving.remove(began)
                if not self._receiving:
                    held = {file for files in self._held.values() for file in files}
                    unheld, self._to_remove = self._to_remove - held, set()
                    for file in unheld:
                        self._remove(file)

    def arrived(self, path: str | Path) -> None:
        """Count an upload of this file. Its sender will look at the file (`take`) or ask about it (`answered`)."""
        with self._lock:
            self._unused[Path(path).resolve()] += 1

    def take(self, session: str, path: str | Path, ours: bool = False) -> Path:
        """The visitor holds this file from now on, and no other. Returns its resolved path. Raises PllavaError when it is no uploaded file.

        ours: the file is a copy of a sample clip; no visitor uploaded it.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.root.resolve()) or not file.is_file():
            raise PllavaError(f"{Path(path).name} is not among the uploaded files. Upload it again")
        self.release(session, keep=file)
        self.add(session, file)
        if not ours:
            self._used(file)
        self.tidy()
        return file

    def add(self, session: str, path: Path) -> None:
        """The visitor holds this file, too, until `release`."""
        with self._lock:
            self._held.setdefault(session, set()).add(path)

    def copy(self, session: str, path: Path) -> Path:
        """Copy a sample clip into the folder, for this visitor. Returns the copy. The page serves no file outside the folder."""
        from gradio.processing_utils import save_file_to_cache  # a component of the page would use the same path

        return self.take(session, save_file_to_cache(path, str(self.root)), ours=True)

    def release(self, session: str, keep: Path | None = None) -> None:
        """The visitor holds no file any more. Remove the files that no other visitor holds, except `keep`."""
        with self._lock:
            mine = self._held.pop(session, set())
            others = {file for files in self._held.values() for file in files}
            for file in mine - others - ({keep} if keep else set()):
                self._remove(file)

    def discard(self, path: str | Path) -> None:
        """Remove a file, unless a visitor holds it."""
        file = Path(path).resolve()
        with self._lock:
            if file.is_relative_to(self.root.resolve()) and not any(file in files for files in self._held.values()):
                self._remove(file)

    def answered(self, path: str | Path) -> None:
        """A program's question about this file is answered. The file stays while other programs that uploaded it wait for their answers."""
        self._used(Path(path).resolve())
        self.discard(path)

    def files(self) -> Iterator[Path]:
        """All files in the folder now."""
        return (Path(folder) / name for folder, _, names in os.walk(self.root) for name in names)  # os.walk skips folders that vanish

    def has_room(self) -> bool:
        """Whether the files of uploads under way and of broken uploads leave room for one more."""
        return sum(size for _, size, file in self._listed() if file.parent == self.root) < ROOM

    def tidy(self) -> None:
        """Remove files that no visitor holds: all that are older than FORGOTTEN, and the oldest above QUOTA.

        A program never asked, or a page closed before it took its file. Also removes what broken uploads left.
        """
        with self._lock:
            known = self._page.union(*self._held.values())
            unheld = sorted(one for one in self._listed() if one[2].resolve() not in known)
            now, total = time.time(), sum(size for _, size, _ in unheld)
            first = min(self._receiving, default=now)
            for modified, size, file in unheld:
                if file.parent == self.root:  # gradio's temporary file; an upload that began before its last change may write it still
                    if modified < first:
                        self._delete(file)
                elif now - modified > FORGOTTEN or total > QUOTA:
                    self._unused.pop(file.resolve(), None)
                    self._delete(file)
                    total -= size

    def _listed(self) -> list[tuple[float, int, Path]]:
        """(time of the last change in seconds since 1970, bytes, path) of each file."""
        listed = []
        for file in self.files():
            with suppress(FileNotFoundError):
                status = file.lstat()
                listed.append((status.st_mtime, status.st_size, file))
        return listed

    def _used(self, file: Path) -> None:
        """One uploader of this file has looked at it or has its answer."""
        with self._lock:
            if self._unused[file] > 1:
                self._unused[file] -= 1
            else:
                del self._unused[file]

    def _remove(self, file: Path) -> None:
        """Remove the file now, or after the uploads under way; not while an uploader still needs it. The caller holds the lock."""
        if file in self._unused:
            return
        if self._receiving:
            self._to_remove.add(file)
            return
        self._delete(file)

    def _delete(self, file: Path) -> None:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if file.parent != self.root:
                file.parent.rmdir()  # fails when the folder is not empty
