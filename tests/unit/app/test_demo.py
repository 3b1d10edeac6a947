"""The page with a real (tiny, random) model, asked as a client asks it."""

import socket
from pathlib import Path

import pytest

from pllava.errors import PllavaError
from pllava.params import Params, load_params

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def params(corpus) -> Params:
    values = load_params(PROJECT / "recipes/tiny.yaml").model_dump()
    values["evaluate"]["benchmarks"]["mvbench"]["root"] = corpus / "MVBench"
    return Params.model_validate(values)


@pytest.fixture(scope="module")
def url(params, tiny_base_dir, tmp_path_factory):
    """Address of a page that serves the tiny random model."""
    from pllava.app.serve import open_page

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        page = open_page(params, model=str(tiny_base_dir), template="vicuna", port=port)
        yield f"http://127.0.0.1:{port}"
        page.close()


@pytest.fixture(scope="module")
def client(url):
    from gradio_client import Client

    return Client(url, verbose=False, analytics_enabled=False)


def test_only_ask_and_version_are_offered(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/ask", "/version"}


def test_the_answer_is_the_one_of_the_library(client, tiny_model, tiny_processor, corpus):
    from gradio_client import handle_file

    import pllava
    from pllava.app.engine import ChatEngine

    clip = corpus / "MVBench/video/moving_direction/40.mp4"
    served = client.predict(handle_file(str(clip)), "Which way?", api_name="/ask")
    chat = pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")
    assert served == ChatEngine(chat).ask(clip, "Which way?")


def test_version_says_what_is_served(client, tiny_base_dir):
    served = client.predict(api_name="/version")
    assert served["model"] == str(tiny_base_dir) and served["version"] is None and served["pid"]


@pytest.mark.parametrize("content", [b"", b"this is no video"])
def test_an_unreadable_upload_is_said_by_its_name_only(client, tmp_path, content):
    from gradio_client import handle_file

    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(Exception, match="broken") as refused:
        client.predict(handle_file(str(tmp_path / "broken.mp4")), "Which way?", api_name="/ask")
    assert "/uploads/" not in str(refused.value) and "Traceback" not in str(refused.value)


def test_a_question_is_needed(client, corpus):
    from gradio_client import handle_file

    with pytest.raises(Exception, match="a question is needed"):
        client.predict(handle_file(str(corpus / "MVBench/video/moving_direction/40.mp4")), "  ", api_name="/ask")


def test_nothing_on_the_page_is_from_elsewhere(url):
    import re
    import urllib.request

    with urllib.request.urlopen(url, timeout=60) as response:
        html = response.read().decode()
    loaded = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", html)
    assert [address for address in loaded if not address.startswith(url)] == []


def test_a_busy_port_is_said_before_a_model_is_loaded(url, params):
    from pllava.app.serve import open_page

    with pytest.raises(PllavaError, match="--port"):
        open_page(params, model="no such model", port=int(url.rsplit(":", 1)[1]))


def test_a_stopped_or_refused_question_is_no_part_of_the_conversation():
    from pllava.app.demo import PROBLEM, _pairs

    history = [
        {"role": "user", "content": "stopped?"},
        {"role": "user", "content": [{"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": "that"},
        {"role": "user", "content": "refused?"},
        {"role": "assistant", "content": PROBLEM + "no"},
    ]
    assert _pairs(history) == [("what?", "that")]
