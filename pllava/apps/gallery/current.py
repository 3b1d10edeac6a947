"""The results that are on disk now. An evaluation may replace them while the gallery runs.

results = Current(["outputs/evaluate"], params)     # reads them; afterwards:
shown = results.now()                               # at each page: shown.index, shown.files, shown.notice
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pllava.apps.gallery.index import HOME, build, state
from pllava.apps.gallery.queries import Index
from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.registry.result_sources import ResultFile, listed, locate

EVERY = 1.0  # seconds between two looks at the disk
PATIENCE = 2.0  # seconds that a page waits for results that are being read; then it shows the old results
READING = "The results on disk have changed and are being read again. Until then you see those from before; reload in a moment."


@dataclass(frozen=True)
class Shown:
    """Results that a page shows. state: `pllava.apps.gallery.index.state` of the files. notice: a sentence for the visitor, or ""."""

    index: Index
    files: Sequence[ResultFile]
    state: str
    notice: str = ""


class Current:
    """Results of several folders, files and MLflow runs (`places`). A run is fetched once, because its results do not change.

    Raises PllavaError when there are no results at the start.
    """

    def __init__(
        self, places: Sequence[str], params: Params | None = None, media: Mapping[str, Path] | None = None, home: Path = HOME
    ) -> None:
        self._located, self._params, self._media, self._home = locate(places), params, media, home
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._unreadable = ""  # a state that could not be read; it is not tried again
        files = self._list()
        self._shown = Shown(Index(build(files, home)), files, state(files))
        self._checked = time.monotonic()

    def now(self) -> Shown:
        """The newest results; the old ones with a notice while changed results are being read."""
        with self._lock:
            if time.monotonic() - self._checked >= EVERY and not self._reading:
                self._check()
                self._checked = time.monotonic()
            reader = self._reader
        if reader is not None:
            reader.join(PATIENCE)
        with self._lock:
            return replace(self._shown, notice=READING) if self._reading else self._shown

    @property
    def _reading(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _list(self) -> list[ResultFile]:
        return listed(self._located, self._params, self._media)

    def _check(self) -> None:
        """Start a thread that reads the results when they have changed."""
        try:
            files = self._list()
            current = state(files)
        except (PllavaError, OSError) as error:
            self._note(error)
            return
        if current == self._shown.state and self._shown.index.path.is_file():
            self._shown = replace(self._shown, notice="")
        elif current != self._unreadable:
            self._reader = threading.Thread(target=self._read, args=(files, current), daemon=True)
            self._reader.start()

    def _read(self, files: Sequence[ResultFile], current: str) -> None:
        try:
            shown = Shown(Index(build(files, self._home)), files, current)
        except (PllavaError, OSError) as error:
            self._unreadable = current
            self._note(error)
            return
        self._shown = shown

    def _note(self, error: Exception) -> None:
        self._shown = replace(
            self._shown, notice=f"The results on disk have changed and cannot be read: {error}. You see those from before."
        )
