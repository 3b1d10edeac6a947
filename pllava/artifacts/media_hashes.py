"""sha256 of media files that `prepare` has checked: `known_hashes(["data/raw/clip.mp4"])`. This module computes no hashes.

`prepare` keeps one report for each media file in .state/prepare/media.sqlite, with the file's size and time of change.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from pllava.core.hashing import stat_fingerprint

STATE = Path(".state/prepare")  # outside DVC's outputs, which DVC deletes before a stage runs
REPORT_OF = "SELECT report FROM media WHERE path = ? AND fingerprint = ?"


def known_hashes(paths: Iterable[str], folder: Path = STATE) -> dict[str, str]:
    """{path: sha256} of the checked files that have not changed since; {} where there are no reports."""
    try:
        with closing(sqlite3.connect(f"{(folder / 'media.sqlite').absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as database:
            rows = {path: database.execute(REPORT_OF, (path, stat_fingerprint(path))).fetchone() for path in paths}
    except sqlite3.Error:
        return {}
    return {path: sha256 for path, row in rows.items() if row and (sha256 := json.loads(row[0])["sha256"])}
