"""Uploaded videos, in a folder that ends with this process."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pllava.apps.serve.errors import ApiError, bad
from pllava.apps.serve.protocol import Media
from pllava.apps.serve.settings import ServeSettings
from pllava.apps.web.budget import Budget
from pllava.core.errors import PllavaError
from pllava.core.files import folder_of_process
from pllava.video.readers import Readers

MOST_FILES = 1000  # uploaded videos; the oldest go first


@dataclass(frozen=True)
class Stored:
    """An uploaded video. size: bytes; created: seconds since 1970."""

    id: str
    path: Path
    filename: str  # the client's name for it; shown, never opened
    size: int
    created: int

    def shown(self) -> dict[str, Any]:
        """The file object of OpenAI's API."""
        return {
            "id": self.id, "object": "file", "bytes": self.size, "created_at": self.created, "filename": self.filename,
            "purpose": "user_data", "status": "processed",
        }  # fmt: skip


class Files:
    """Videos on disk, under names of our own. The reader finds the type of a file by its content."""

    def __init__(self, settings: ServeSettings, readers: Readers, budget: Budget | None = None) -> None:
        self.settings, self.readers, self.budget = settings, readers, budget or Budget(settings.max_bodies)
        self.folder = folder_of_process(Path(tempfile.gettempdir()), "pllava-serve-")
        self._stored: OrderedDict[str, Stored] = OrderedDict()  # oldest first
        self._lock = threading.Lock()

    def add(self, source: BinaryIO, filename: str) -> Stored:
        """Store a video, and remove the oldest videos above `max_stored_bytes`, bodies under way included.

        Raises ApiError: 413 for a large file, 400 for no video.
        """
        name = f"file-{secrets.token_hex(12)}"
        path = self.folder / name
        size = 0
        try:
            with path.open("wb") as file:
                while chunk := source.read(1 << 20):
                    size += len(chunk)
                    if size > self.settings.max_bytes:
                        raise too_large(self.settings)
                    file.write(chunk)
            self._check(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        stored = Stored(name, path, Path(filename or "video").name[:200], size, int(time.time()))
        with self._lock:
            self._stored[name] = stored
            most = self.settings.max_stored_bytes - self.budget.taken
            total = sum(one.size for one in self._stored.values())
            while (total > most and len(self._stored) > 1) or len(self._stored) > MOST_FILES:
                oldest = self._stored.popitem(last=False)[1]
                total -= oldest.size
                oldest.path.unlink(missing_ok=True)
        return stored

    def _check(self, path: Path) -> None:
        try:
            self.readers.read(path, 1)
        except PllavaError as error:
            raise bad(named(error, path), "file") from None

    def get(self, name: str) -> Stored:
        """Raises ApiError 404 when there is no such file."""
        with self._lock:
            if name not in self._stored:
                raise ApiError(404, f"there is no file {name[:80]!r}; upload it to /v1/files", "file_id")
            return self._stored[name]

    def all(self) -> list[Stored]:
        with self._lock:
            return list(self._stored.values())

    def remove(self, name: str) -> None:
        stored = self.get(name)
        with self._lock:
            self._stored.pop(name, None)
        stored.path.unlink(missing_ok=True)

    def temporary(self, media: Media) -> Path:
        """The path of a file with the request's video, or of a folder with its frames. The caller removes it with `discard`.

        Raises ApiError 413 for a large video.
        """
        parts = media.frames or (media.data or b"",)
        if sum(map(len, parts)) > self.settings.max_bytes:
            raise too_large(self.settings)
        path = self.folder / f"request-{secrets.token_hex(12)}"
        if media.frames:
            path.mkdir()
            for number, frame in enumerate(parts, 1):
                (path / f"{number:05d}.jpg").write_bytes(frame)  # the reader finds PNG and WebP by content
        else:
            path.write_bytes(parts[0])
        return path

    def discard(self, path: Path) -> None:
        """Remove a file or folder of `temporary`."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def too_large(settings: ServeSettings) -> ApiError:
    return ApiError(413, f"the video is larger than the {settings.max_bytes:,} bytes this server takes", code="file_too_large")


def named(error: Exception, path: Path) -> str:
    """The error's message without the path of the file."""
    return str(error).replace(str(path), "the video")
