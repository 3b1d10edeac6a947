"""The sentinel: a process that ends the children of its parent when the parent is killed (kill -9, out of memory).

`process.py` starts the sentinel and writes lines to its stdin: "+PID SECONDS" when a child begins, "-PID" when a child has ended.
SECONDS is the time the child gets between SIGTERM and SIGKILL. Each child leads a session. When stdin closes, the parent has died: the
sentinel ends the children it still lists, their descendants, and all processes of their sessions.
"""

import os
import sys
from contextlib import suppress

import psutil

KILLED_SECONDS = 2.0  # for the system to remove a killed process


def main() -> None:
    children: dict[int, psutil.Process] = {}
    patience: dict[int, float] = {}
    for line in sys.stdin:
        number, *seconds = line[1:].split()
        pid = int(number)
        if line.startswith("+"):
            with suppress(psutil.NoSuchProcess):
                children[pid] = psutil.Process(pid)  # holds the time of creation: another process may get the same pid later
                patience[pid] = float(seconds[0])
        else:
            children.pop(pid, None)
    for how in ("terminate", "kill", "kill"):
        remaining = family(children)
        for process in remaining:
            with suppress(psutil.Error):
                getattr(process, how)()
        psutil.wait_procs(
            remaining, timeout=max((patience[pid] for pid in children), default=0.0) if how == "terminate" else KILLED_SECONDS
        )


def family(children: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The children, their descendants, and the orphans in a session that a child leads; never this process."""
    processes: dict[int, psutil.Process] = {}
    for child in children.values():
        with suppress(psutil.Error):
            processes |= {process.pid: process for process in [child, *child.children(recursive=True)] if process.is_running()}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            leader = children.get(os.getsid(process.pid))
            if leader is not None and process.create_time() >= leader.create_time():
                processes.setdefault(process.pid, process)
    return [process for process in processes.values() if process.pid != os.getpid()]


if __name__ == "__main__":
    main()
