"""`python -m pllava.services.demo`: keeps the demo up while the stack runs.

`pllava deploy` (`services/deploy.py`) starts, tries, replaces and rolls back the demo. A run, a person, or this module calls it. This
module calls it at the start, and again when the recorded process of the demo has died. When nothing can be served (no champion, no
held-out clip), the other services go on, and this module waits for the next deployment that succeeds.
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
from pllava.core.files import atomic_write_text, state_folder

POLL = 1.0  # seconds
RETRY_SECONDS = 60.0  # until a failed deployment is tried again
NO_CHAMPION = "no champion yet: run the pipeline"
REASON_FILE = process.HOME / "why.txt"  # the reason why nothing is served; absent while the demo serves


def keep() -> None:
    """Keep the demo up until SIGTERM; then stop it."""
    signal.signal(signal.SIGTERM, _exit)
    REASON_FILE.unlink(missing_ok=True)
    served = process.recorded() is not None
    try:
        while True:
            if process.recorded() is None and not _deployment_in_progress():
                if served:
                    print("the demo has died", flush=True)
                # In a process of its own: its end frees the memory of MLflow and of the deployment's other imports.
                subprocess.run([sys.executable, "-m", "pllava.services.demo", "once"])
                served = _wait_until_served()
            time.sleep(POLL)
    finally:
        process.stop()


def once() -> None:
    """Deploy the champion once. When the deployment fails, write the reason to REASON_FILE."""
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
        atomic_write_text(REASON_FILE, str(error))


def _wait_until_served() -> bool:
    """Wait until a demo is served, or RETRY_SECONDS have passed. Returns whether it is served.

    Without a champion there is no time limit: the promotion of the first champion deploys it.
    """
    waited = 0.0
    while process.recorded() is None and (waited < RETRY_SECONDS or _reason() == NO_CHAMPION):
        time.sleep(POLL)
        waited += POLL
    REASON_FILE.unlink(missing_ok=True)
    return process.recorded() is not None


def _reason() -> str:
    return REASON_FILE.read_text() if REASON_FILE.is_file() else ""


def _deployment_in_progress() -> bool:
    """Does a process deploy now? Then the record is about to change."""
    state_folder(process.HOME)
    try:
        with FileLock(process.HOME / "deploy.lock", timeout=0):
            return False
    except Timeout:
        return True


def _exit(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    once() if sys.argv[1:] == ["once"] else keep()
