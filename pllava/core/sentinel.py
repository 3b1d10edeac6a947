"""The sentinel: a process that ends the children of its parent when the parent is killed (kill -9, out of memory).

`command.py` starts the sentinel and writes lines to its stdin: "+PID SECONDS" when a child begins, "-PID" when a child has ended.
SECONDS is the time the child gets between SIGTERM and SIGKILL. Each child leads a session. When stdin closes, the parent has died: the
sentinel ends the children it still lists, their descendants, and all processes of their sessions.
"""

import sys
from contextlib import suppress

import psutil

from pllava.core.processes import end, family


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
    end(lambda: family(children), max((patience[pid] for pid in children), default=0.0))


if __name__ == "__main__":
    main()
