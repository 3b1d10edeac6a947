"""A visitor's window, and what is waited for and looked for in it."""

from __future__ import annotations

import socket
import time
from typing import Any

PATIENCE = 60_000  # milliseconds


class Visitor:
    """A browser window with its own cookies. `requests` and `problems` collect what the page asks for and what goes wrong in it."""

    def __init__(self, browser: Any, width: int, height: int, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda sent: self.requests.append(sent.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.problems.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def outside(self, url: str) -> list[str]:
        return [address for address in self.requests if not address.startswith((url, "data:", "blob:"))]

    def scrolls_sideways(self) -> bool:
        """In a frame that people see: until its stylesheet has come a page has a width, but is not painted."""
        wide = "document.documentElement.scrollWidth > window.innerWidth"
        return self.page.evaluate(f"new Promise(done => requestAnimationFrame(() => done({wide})))")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(page: Any, condition: str) -> None:
    """Wait for an expression to become true. Playwright's own way needs `eval`, which the gallery forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        page.wait_for_timeout(40)


def serious(page: Any) -> list[str]:
    """What axe-core finds serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
