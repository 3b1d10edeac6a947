"""Find and end the processes of a project's stack by a mark in their environment, in whatever session and under whatever parent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from pllava.services.stack import MARK

PATIENCE = 5.0  # seconds between SIGTERM and SIGKILL


def find(root: Path) -> list[psutil.Process]:
    """All marked processes except this one and its ancestors: a run of the stack may call this function."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # a process of another user, or one that has ended
            if process.pid not in own and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(root):
                marked.append(process)
    return marked


def end(root: Path) -> list[str]:
    """End all marked processes, also those that start meanwhile. Returns their command lines, cut to 100 characters."""
    ended: dict[int, str] = {}
    for how in ("terminate", "kill", "kill"):
        remaining = find(root)
        for process in remaining:
            with suppress(psutil.Error):
                ended.setdefault(process.pid, " ".join(process.cmdline())[:100])
                getattr(process, how)()
        psutil.wait_procs(remaining, timeout=PATIENCE)
    return list(ended.values())
