"""The results as they are on disk now: they may be evaluated anew while the gallery runs.

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
PATIENCE = 2.0  # seconds that a page waits for results that are being read; larger ones come later
READING = "The results on disk have changed and are being read again. Until then you see those from before; reload in a moment."


@dataclass(frozen=True)
class Shown:
    """state: of `pllava.apps.gallery.index.state`, what the index was made of. notice: what a visitor should know, or ""."""

    index: Index
    files: Sequence[ResultFile]
    state: str
    notice: str = ""


class Current:
    """Results of several places. An MLflow run is fetched once: what it logged stays. Raises PllavaError when there are none at first."""

    def __init__(
        self, places: Sequence[str], params: Params | None = None, media: Mapping[str, Path] | None = None, home: Path = HOME
    ) -> None:
        self._located, self._params, self._media, self._home = locate(places), params, media, home
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._refused = ""  # the state that could not be read
        files = self._list()
        self._shown = Shown(Index(build(files, home)), files, state(files))
        self._looked = time.monotonic()

    def now(self) -> Shown:
        with self._lock:
            if time.monotonic() - self._looked >= EVERY and not self._reading:
                self._look()
                self._looked = time.monotonic()
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

    def _look(self) -> None:
        try:
            files = self._list()
            found = state(files)
        except (PllavaError, OSError) as error:
            self._tell(error)
            return
        if found == self._shown.state and self._shown.index.path.is_file():
            self._shown = replace(self._shown, notice="")
        elif found != self._refused:
            self._reader = threading.Thread(target=self._read, args=(files, found), daemon=True)
            self._reader.start()

    def _read(self, files: Sequence[ResultFile], found: str) -> None:
        try:
            shown = Shown(Index(build(files, self._home)), files, found)
        except (PllavaError, OSError) as error:
            self._refused = found
            self._tell(error)
            return
        self._shown = shown

    def _tell(self, error: Exception) -> None:
        self._shown = replace(
            self._shown, notice=f"The results on disk have changed and cannot be read: {error}. You see those from before."
        )
