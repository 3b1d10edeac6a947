"""One Chromium, one demo with the built-in image model, one gallery, for all tests in a browser."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from gallery_results import HOSTILE, result, write, write_h264
from window import Visitor, free_port

PROJECT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
MISSING = (
    "no playwright here: pip install -e '.[dev]'"
    if find_spec("playwright") is None
    else "no Chromium on PATH; on Debian: apt install chromium"
    if CHROMIUM is None
    else ""
)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MISSING:
        terminalreporter.write_line(f"The pages were not looked at: {MISSING}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if MISSING:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


ANSWERS_MAY_GO_ON = threading.Event()
ANSWERS_MAY_GO_ON.set()


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """While the event is cleared, answers of `demo` stop after their next piece."""
    yield ANSWERS_MAY_GO_ON
    ANSWERS_MAY_GO_ON.set()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "moving bar.mp4"
    write_h264(path, 1, size=128)
    return path


@pytest.fixture(scope="session")
def demo(browser: Any, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Any]]:
    """(address, folder of the uploads, gradio's page). The model is real; its pieces come slowly, so that there is time to press Stop."""
    from pllava.apps.demo import server as serve
    from pllava.apps.demo.engine import ChatEngine
    from pllava.apps.demo.samples import Sample
    from pllava.core.params import load_params

    stream = ChatEngine.stream

    def slowly(*arguments: Any, **options: Any) -> Iterator[str]:
        for piece in stream(*arguments, **options):
            time.sleep(0.06)
            yield piece
            ANSWERS_MAY_GO_ON.wait(120)

    params = load_params(PROJECT / "recipes/tiny.yaml")
    home = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(ChatEngine, "stream", slowly)
        patch.setattr(serve, "MAX_FILE_SIZE", "1mb")
        patch.setattr(serve, "samples", lambda params: [Sample(clip, "Moving Bar", "Where does it <b>move</b>?", "right")])
        port = free_port()
        page = serve.open_page(params, model=str(PROJECT / params.model.base), template="tiny", port=port, say=lambda text: None)
        yield f"http://127.0.0.1:{port}", home / serve.UPLOADS, page
        page.close(verbose=False)


@pytest.fixture(scope="session")
def open_gallery() -> Iterator[Callable[[Any], str]]:
    """open_gallery(results) -> the address of a gallery of these."""
    import uvicorn

    from pllava.apps.gallery.app import create_app

    running: list[tuple[Any, threading.Thread]] = []

    def serve(results: Any) -> str:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(create_app(results, hosts=("127.0.0.1",)), port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        running.append((server, thread))
        thread.start()
        while not server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def gallery(browser: Any, open_gallery: Callable[[Any], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two sources of 120 questions. old is right on the first 60, new from the 30th to the 89th; number 7 is hostile."""
    from pllava.apps.gallery.current import Current

    home = tmp_path_factory.mktemp("gallery")
    for seed in range(3):
        write_h264(home / f"clips/video/{seed}.mp4", seed, num_frames=32)

    def rows(right: Callable[[int], bool]) -> list[dict[str, Any]]:
        hostile = {"question": HOSTILE, "prediction": HOSTILE, "candidates": [HOSTILE], "task": HOSTILE}
        return [
            result(n, "adapted", right(n), start=1.0, end=2.5) | (hostile if n == 7 else {"candidates": ["left", "right", f"option {n}"]})
            for n in range(120)
        ]

    old, new = write(home / "old", rows(lambda n: n < 60)), write(home / "new", rows(lambda n: 30 <= n < 90))
    return open_gallery(Current([str(old), str(new)], None, {"": home / "clips"}, home / "index"))


@pytest.fixture
def visitor(browser: Any) -> Iterator[Callable[..., Visitor]]:
    """visitor(width, height, color_scheme=...) opens a window; all are closed at the end."""
    opened: list[Visitor] = []

    def open_window(width: int = 1280, height: int = 900, **options: Any) -> Visitor:
        opened.append(Visitor(browser, width, height, **options))
        return opened[-1]

    yield open_window
    for window in opened:
        window.context.close()
