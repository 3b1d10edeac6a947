"""Ends what a process has started when that process is killed and can do nothing itself any more (kill -9, out of memory).

`process.py` starts it and writes "+PID SECONDS" and "-PID" lines for children that begin and end. Each child leads a session, and has
so long between being asked to end and being ended. When the input ends,
so has the process at the other side: what is still listed is ended, with all below it and all of its session.
"""

import os
import sys
from contextlib import suppress

import psutil

KILLED_SECONDS = 2.0  # until the system has removed what was killed


def main() -> None:
    children: dict[int, psutil.Process] = {}
    patience: dict[int, float] = {}
    for line in sys.stdin:
        number, *seconds = line[1:].split()
        pid = int(number)
        if line.startswith("+"):
            with suppress(psutil.NoSuchProcess):
                children[pid] = psutil.Process(pid)  # with its time of creation: the number may be another's later
                patience[pid] = float(seconds[0])
        else:
            children.pop(pid, None)
    for how in ("terminate", "kill", "kill"):
        left = family(children)
        for process in left:
            with suppress(psutil.Error):
                getattr(process, how)()
        psutil.wait_procs(left, timeout=max((patience[pid] for pid in children), default=0.0) if how == "terminate" else KILLED_SECONDS)


def family(children: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The children, all below them, and what has lost its parent but is in a session of theirs."""
    found: dict[int, psutil.Process] = {}
    for child in children.values():
        with suppress(psutil.Error):
            found |= {process.pid: process for process in [child, *child.children(recursive=True)] if process.is_running()}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            leader = children.get(os.getsid(process.pid))
            if leader is not None and process.create_time() >= leader.create_time():
                found.setdefault(process.pid, process)
    return [process for process in found.values() if process.pid != os.getpid()]


if __name__ == "__main__":
    main()
