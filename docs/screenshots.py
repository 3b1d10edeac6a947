"""Take docs/demo.png and docs/gallery.png from the real pages, which this starts: `python docs/screenshots.py`. Needs Chromium, playwright.

The demo serves the champion (or what `pllava demo` would serve), the gallery shows outputs/evaluate: run the pipeline first.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
PATIENCE = 300_000  # milliseconds


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A command of pllava that serves a page, on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "pllava.cli", *arguments, "--port", str(port)])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        while True:
            if process.poll() is not None:
                sys.exit(f"pllava {arguments[0]} ended with code {process.returncode}")
            try:
                opener.open(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def take_demo(page: Any, url: str, target: Path) -> None:
    """Choose the first held-out clip, ask its question and for a description, and save the page."""
    page.goto(url)
    page.wait_for_selector("#samples button.thumbnail-item")
    page.wait_for_timeout(1000)
    page.locator("#samples button.thumbnail-item").first.click()
    page.wait_for_selector(".strip img")
    for number in range(2):  # the clip's own question, then a description
        page.locator("#questions button").nth(number).click()
        page.locator("#chat [data-testid=bot]").nth(number).wait_for()
        page.wait_for_timeout(3000)
    page.wait_for_timeout(1500)
    page.mouse.move(0, 0)
    page.screenshot(path=target, full_page=True)


def take_gallery(page: Any, url: str, target: Path) -> None:
    """The adapted model against the base: where they differ."""
    page.goto(f"{url}/compare")
    page.wait_for_selector(".questions")
    page.screenshot(path=target, clip={"x": 0, "y": 0, "width": 1280, "height": 1150}, full_page=True)


def main() -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE)
        with running("demo", *sys.argv[1:]) as url:
            take_demo(page, url, HERE / "demo.png")
        with running("gallery", "outputs/evaluate") as url:
            take_gallery(page, url, HERE / "gallery.png")
        browser.close()


if __name__ == "__main__":
    main()
