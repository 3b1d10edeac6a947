"""The process that `pllava deploy` starts is given another model, then started anew, while a page of it is open."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from serving import write_adapter
from window import free_port, until

from pllava.apps.demo import switch
from pllava.core.params import load_params

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
BOT = "#chat [data-testid=bot]"


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def project(tmp_path, tiny_base_dir, port, monkeypatch):
    """A folder with two adapters, `one` and `two`, and settings with a free port."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two")):
        write_adapter(tiny_base_dir, tmp_path / name, seed, {"base": str(tiny_base_dir), "template": "vicuna"}, alpha=4 * (seed + 1))
    values = load_params(Path(__file__).parents[2] / "recipes/tiny.yaml").model_dump(mode="json")
    values["deploy"] = {"host": "127.0.0.1", "port": port, "timeout_seconds": 200}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path


@pytest.fixture
def served(project, port):
    """served(model) starts the process and waits for its page; the last one ends with the test."""
    running: list[subprocess.Popen] = []

    def end():
        for process in running:
            process.terminate()
            process.wait(30)
        running.clear()

    def start(model):
        end()
        environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-m", "pllava.apps.demo.switch", "--model", model, "--params", "params.yaml"]
        with (project / "log").open("wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
        address = f"http://127.0.0.1:{port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(address, timeout=5).close()
                return address
            except (urllib.error.URLError, OSError):
                assert running[-1].poll() is None, (project / "log").read_text()
                time.sleep(0.2)

    yield start
    end()


def credits(page):
    return [text.rpartition("— ")[2].replace("\u200b", "").partition(" · ")[0] for text in page.locator(BOT).all_inner_texts()]


def ask(page, question, number):
    page.locator("#question textarea").fill(question)
    page.locator("#question textarea").press("Enter")
    until(page, f"document.querySelectorAll('{BOT}').length === {number}")


def finished(page):
    last = None
    while (text := page.locator(BOT).last.inner_text()) != last:
        last = text
        page.wait_for_timeout(1000)


def test_a_restart_in_the_middle_of_an_answer_is_said_too(visitor, served, project, clip):
    """Gradio reloads the page by itself then."""
    page = visitor().page
    page.goto(served("one"))
    until(page, "sessionStorage.getItem('server') !== null")
    page.locator("#upload input[type=file]").set_input_files(clip)
    page.wait_for_selector(".strip img")
    ask(page, "Which way?", 1)
    served("one")
    page.locator("#restarted", has_text="The server restarted").wait_for()
    page.reload()
    until(page, "document.querySelector('.badge')?.innerText === 'one'")
    page.wait_for_timeout(2500)
    assert not page.locator("#restarted .problem").count()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_an_open_page_follows_a_switch_and_says_that_the_server_restarted(visitor, served, project, clip, width, height):
    address = served("one")
    window = visitor(width, height)
    page = window.page
    page.goto(address)
    badge, footer = page.locator(".badge"), page.locator(".lineage summary")
    until(page, "document.querySelector('.badge')?.innerText === 'one'")
    page.locator("#upload input[type=file]").set_input_files(clip)
    page.wait_for_selector(".strip img")
    ask(page, "Which way?", 1)
    assert credits(page) == ["one, LoRA alpha 4"]

    facts = {"model": "two", "params": "params.yaml", "clip": str(clip), "question": "Which way?"}
    assert switch.request(1, facts, 120, lambda: True)["answer"]
    page.wait_for_timeout(3000)
    assert badge.inner_text() == "two"
    assert "Served: two," in footer.inner_text()
    ask(page, "And now?", 2)
    assert credits(page) == ["one, LoRA alpha 4", "two, LoRA alpha 8"]
    finished(page)
    assert not window.scrolls_sideways()
    assert window.problems == []

    served("one")
    page.locator("#restarted", has_text="The server restarted").wait_for()
    assert "Reload the page" in page.locator("#restarted").inner_text()
    assert badge.inner_text() == "one"
    assert "Served: one," in footer.inner_text()
    ask(page, "Still there?", 3)
    assert "server restarted" in page.locator(BOT).last.inner_text()
    page.reload()
    until(page, "document.querySelector('.badge')?.innerText === 'one'")
    assert not page.locator("#restarted .problem").count()
