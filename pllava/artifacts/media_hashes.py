"""sha256 of media files that `prepare` has checked: `known_hashes(["data/raw/clip.mp4"])`. This module computes no hashes.

`prepare` keeps one report for each media file in a ledger, .state/prepare/media.ledger, with the file's size and time of change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from pllava.core.hashing import stat_fingerprint
from pllava.core.ledger import Ledger

STATE = Path(".state/prepare")  # outside DVC's outputs, which DVC deletes before a stage runs
FILE = "media.ledger"  # key: path of a media file; row: {"fingerprint", "sha256", ...}


def known_hashes(paths: Iterable[str], folder: Path = STATE) -> dict[str, str]:
    """{path: sha256} of the checked files that have not changed since; {} where there are no reports."""
    if not (folder / FILE).is_file():
        return {}
    try:
        with Ledger(folder / FILE) as ledger:
            reports = {path: ledger.get(path) for path in paths}
    except sqlite3.OperationalError:  # a folder that this user cannot write to
        return {}
    known = {path: report for path, report in reports.items() if report and report["fingerprint"] == stat_fingerprint(path)}
    return {path: report["sha256"] for path, report in known.items() if report["sha256"]}
