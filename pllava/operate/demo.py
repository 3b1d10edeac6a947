"""`python -m pllava.operate.demo`: keeps the demo up while the stack runs.

Starting, trying, replacing and going back are `pllava deploy`'s (pllava/app/deploy.py), whoever calls it: a run, a person, or this. Here
it is called once at the start and again when the process it recorded has died. Without a champion there is nothing to serve: the first
promotion deploys it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import FrameType

from filelock import FileLock, Timeout

from pllava.app import process
from pllava.errors import PllavaError

POLL = 1.0  # seconds
NO_CHAMPION = 3  # exit code of one deployment
WAITING = process.HOME / "waiting"  # is there while there is no champion


def keep() -> None:
    """Until SIGTERM; then the demo is stopped as well. A deployment that fails ends us with code 1: supervisord tries again."""
    signal.signal(signal.SIGTERM, _leave)
    WAITING.unlink(missing_ok=True)
    try:
        served = process.recorded() is not None
        while True:
            if process.recorded() is None and not _deploying():
                if served:
                    print("the demo has died", flush=True)
                if (code := subprocess.run([sys.executable, "-m", "pllava.operate.demo", "once"]).returncode) == NO_CHAMPION:
                    _wait_for_a_first_champion()
                elif code:
                    sys.exit(1)
                served = True
            time.sleep(POLL)
    finally:
        process.stop()


def once() -> int:
    """One deployment; its exit code."""
    from pllava.app.deploy import deploy
    from pllava.app.source import champion
    from pllava.params import load_params

    params = load_params()
    try:
        if champion(params) is None:
            print("no champion yet: the first promotion starts the demo (make run, or the flow `pipeline`)", flush=True)
            return NO_CHAMPION
        print(deploy(params).describe(), flush=True)
    except PllavaError as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


def _wait_for_a_first_champion() -> None:
    WAITING.touch()
    while process.recorded() is None:
        time.sleep(POLL)
    WAITING.unlink(missing_ok=True)


def _deploying() -> bool:
    """Is somebody at it? Then the record is about to change."""
    process.HOME.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(process.HOME / "deploy.lock", timeout=0):
            return False
    except Timeout:
        return True


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    if sys.argv[1:] == ["once"]:
        sys.exit(once())
    keep()
