"""Take docs/demo.png from a running demo: `pllava deploy && python docs/screenshots.py [URL]`. Needs Chromium and playwright."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PATIENCE = 300_000  # milliseconds


def take(url: str, target: Path) -> None:
    """Choose the first held-out clip, ask its question, wait for the answer, and save the page."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#samples button.thumbnail-item")
        page.wait_for_load_state("networkidle")
        page.locator("#samples button.thumbnail-item").first.click()
        page.wait_for_selector(".strip img")
        page.locator("#questions button").first.click()
        page.wait_for_selector("#chat .bot.message")
        page.wait_for_load_state("networkidle")
        page.mouse.move(0, 0)
        page.screenshot(path=target, full_page=True)
        browser.close()


if __name__ == "__main__":
    take(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860", Path(__file__).with_name("demo.png"))
