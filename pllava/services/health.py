"""Check once whether a service answers, or wait until it does."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never reached through a proxy
POLL = 0.2  # seconds


def answers(url: str) -> bool:
    """Does a GET of the URL return 200 within 5 seconds?"""
    try:
        with NO_PROXY.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):  # URLError and HTTPError are OSErrors
        return False


def wait_until(done: Callable[[], bool], seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
    """Wait until `done()` is true. Returns False after `seconds`, or when `alive()` is false."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline or not alive():
            return False
        time.sleep(POLL)
    return True
