"""`python -m pllava.services.demo`: keeps the demo up while the stack runs.

Starting, trying, replacing and going back are `pllava deploy`'s (`services/deploy.py`), whoever calls it: a run, a person, or this. Here
it is called at the start and again when the process it recorded has died. When nothing can be served (no champion, no clips to try it on)
the other services work on, and the next deployment that succeeds is looked after.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import FrameType

from filelock import FileLock, Timeout

from pllava.core import processes as process
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text

POLL = 1.0  # seconds
AGAIN = 60.0  # seconds until a deployment that failed is tried again
NO_CHAMPION = "no champion yet: run the pipeline"
WHY = process.HOME / "why.txt"  # is there while nothing is served, and says why


def keep() -> None:
    """Until SIGTERM; then the demo is stopped as well."""
    signal.signal(signal.SIGTERM, _leave)
    WHY.unlink(missing_ok=True)
    served = process.recorded() is not None
    try:
        while True:
            if process.recorded() is None and not _deploying():
                if served:
                    print("the demo has died", flush=True)
                # In a process of its own, which takes MLflow and the rest of what a deployment needs out of memory again.
                subprocess.run([sys.executable, "-m", "pllava.services.demo", "once"])
                served = _wait_for_one()
            time.sleep(POLL)
    finally:
        process.stop()


def once() -> None:
    """One deployment; why it failed is left in a file."""
    from pllava.core.params import load_params
    from pllava.registry.default_model import champion
    from pllava.services.deploy import deploy

    try:
        params = load_params()
        if champion(params) is None:
            raise PllavaError(NO_CHAMPION)
        print(deploy(params).describe(), flush=True)
    except PllavaError as error:
        print(error, flush=True)
        atomic_write_text(WHY, str(error))


def _wait_for_one() -> bool:
    """Until something is served, by whomever, or it is time to try again. For a first champion nobody need try: promotion deploys it."""
    waited = 0.0
    while process.recorded() is None and (waited < AGAIN or _why() == NO_CHAMPION):
        time.sleep(POLL)
        waited += POLL
    WHY.unlink(missing_ok=True)
    return process.recorded() is not None


def _why() -> str:
    return WHY.read_text() if WHY.is_file() else ""


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
    once() if sys.argv[1:] == ["once"] else keep()
