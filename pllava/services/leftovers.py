"""Processes of a project's stack, found by a mark in their environment: whatever session they are in and whoever their parent is now."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from pllava.services.stack import MARK

PATIENCE = 5.0  # seconds between asking to end and ending


def find(root: Path) -> list[psutil.Process]:
    """All marked processes but this one and those it descends from (a run may call us)."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone by now
            if process.pid not in own and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(root):
                found.append(process)
    return found


def end(root: Path) -> list[str]:
    """End them all, and what they start meanwhile; their command lines."""
    ended: dict[int, str] = {}
    for how in ("terminate", "kill", "kill"):
        left = find(root)
        for process in left:
            with suppress(psutil.Error):
                ended.setdefault(process.pid, " ".join(process.cmdline())[:100])
                getattr(process, how)()
        psutil.wait_procs(left, timeout=PATIENCE)
    return list(ended.values())
