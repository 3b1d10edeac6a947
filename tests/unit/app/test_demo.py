"""The page with a real (tiny, random) model, asked as a client asks it."""

import socket
from fractions import Fraction
from pathlib import Path

import pytest
from foreign_page import ask, gets_nothing

from pllava.core.errors import PllavaError
from pllava.core.params import Params, load_params

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def params(corpus) -> Params:
    values = load_params(PROJECT / "recipes/tiny.yaml").model_dump()
    values["evaluate"]["benchmarks"]["mvbench"]["root"] = corpus / "MVBench"
    return Params.model_validate(values)


@pytest.fixture(scope="module")
def url(params, tiny_base_dir, tmp_path_factory):
    """Address of a page that serves the tiny random model."""
    from pllava.apps.demo.server import open_page

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
    from pllava.apps.demo.engine import ChatEngine

    clip = corpus / "MVBench/video/moving_direction/40.mp4"
    served = client.predict(handle_file(str(clip)), "Which way?", api_name="/ask")
    chat = pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")
    assert served == ChatEngine(chat).ask(clip, "Which way?")


def test_version_says_what_is_served(client, tiny_base_dir):
    served = client.predict(api_name="/version")
    assert served["model"] == str(tiny_base_dir)
    assert served["version"] is None
    assert served["pid"]


@pytest.mark.parametrize("content", [b"", b"this is no video"])
def test_an_unreadable_upload_is_said_by_its_name_only(client, tmp_path, content):
    from gradio_client import handle_file

    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(Exception, match="broken") as refused:
        client.predict(handle_file(str(tmp_path / "broken.mp4")), "Which way?", api_name="/ask")
    assert "/uploads/" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_every_wrong_file_is_refused_in_words_for_a_visitor(params, tiny_model, tiny_processor, corpus, tmp_path):
    import av
    import numpy as np

    import pllava
    from pllava.apps.demo.engine import ChatEngine, Settings
    from pllava.apps.demo.handlers import Visits
    from pllava.apps.web.uploads import Uploads

    uploads = Uploads(tmp_path / "uploads")
    home = uploads.open()
    clip = (corpus / "MVBench/video/moving_direction/40.mp4").read_bytes()
    contents = {
        "notes.mp4": b"these are words",
        "empty.mp4": b"",
        "half.mp4": clip[: len(clip) // 2],
        "torn.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }
    for name, content in contents.items():
        (home / name[:4]).mkdir()
        (home / name[:4] / name).write_bytes(content)
    (home / "song").mkdir()
    with av.open(str(home / "song/song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux([*stream.encode(sound), *stream.encode()])
    visits = Visits(ChatEngine(pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")), uploads)
    words = {
        "notes.mp4": "no video or image",
        "empty.mp4": "is empty",
        "half.mp4": "damaged",
        "torn.png": "no video or image",
        "song.mp4": "sound",
    }
    for name, word in words.items():
        with pytest.raises(PllavaError, match=word) as refused:
            visits.look("anna", str(home / name[:4] / name), Settings())
        assert str(refused.value).startswith(f"{name}: ")
        assert not any(advice in str(refused.value) for advice in ("ffmpeg", "Fetch", "Limits(", "stream", str(home)))
        assert not (home / name[:4] / name).exists()


@pytest.fixture
def over_long(tmp_path):
    """31 minutes, of one picture every ten seconds."""
    import av
    import numpy as np

    path = tmp_path / "lecture.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 10), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(186):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_above_the_duration_limit_is_refused(client, over_long):
    from gradio_client import handle_file

    with pytest.raises(Exception, match=r"lecture\.mp4: 1,8\d\d seconds, the limit is 1,800") as refused:
        client.predict(handle_file(str(over_long)), "Which way?", api_name="/ask")
    assert "Limits(" not in str(refused.value)


def test_a_reader_that_died_while_nobody_used_it_is_no_clips_fault(client, corpus):
    import psutil
    from gradio_client import handle_file

    def ask(name: str) -> str:
        return client.predict(handle_file(str(corpus / "MVBench/video/moving_direction" / name)), "Which way?", api_name="/ask")

    first, second = (file.name for file in sorted((corpus / "MVBench/video/moving_direction").iterdir())[:2])
    answer = ask(first)
    readers = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "pllava.video.worker" in child.cmdline()
    ]
    assert readers
    for reader in readers:
        reader.kill()
        reader.wait(10)
    assert ask(second)
    assert ask(first) == answer


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
    from pllava.apps.demo.server import open_page

    with pytest.raises(PllavaError, match="--port"):
        open_page(params, model="no such model", port=int(url.rsplit(":", 1)[1]))


def test_a_stopped_or_refused_question_is_no_part_of_the_conversation():
    from pllava.apps.demo.handlers import PROBLEM, pairs

    history = [
        {"role": "user", "content": "stopped?"},
        {"role": "user", "content": [{"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": "that"},
        {"role": "user", "content": "refused?"},
        {"role": "assistant", "content": PROBLEM + "no"},
    ]
    assert pairs(history) == [("what?", "that")]


def test_an_answer_without_a_word_is_no_part_of_the_conversation():
    from types import SimpleNamespace

    from pllava.apps.demo.handlers import Clip, Visits, pairs

    silent = Visits(SimpleNamespace(stream=lambda *_: iter(())), None)
    silent.asks("anna", [{"role": "user", "content": "what?"}])
    [*_, last] = silent.reply("anna", Clip("a.mp4", "", None), None)
    assert last[-1]["content"].endswith("said nothing.")
    assert pairs(last) == []


def test_a_question_asked_during_an_answer_ends_it_and_is_answered_whatever_the_page_shows():
    from types import SimpleNamespace

    from pllava.apps.demo.handlers import Clip, Visits, asked, text_of

    visits, clip = Visits(SimpleNamespace(stream=lambda path, question, *_: iter([question, question * 2])), None), Clip("a.mp4", "", None)

    def ask(question, history):
        visits.asks("anna", asked(question, history))
        return visits.reply("anna", clip, None)

    first = ask("a", [])
    next(first)
    shown = next(first)
    second = ask("b", shown)
    assert list(first) == []
    assert [text_of(message) for message in list(second)[-1]] == ["a", "a", "b", "bb"]
    assert list(visits.reply("anna", clip, None)) == []  # of a question that was answered with another's turn


def test_asking_again_goes_back_to_the_question():
    from pllava.apps.demo.handlers import up_to

    history = [{"role": role, "content": text} for role, text in [("user", "a"), ("assistant", "1"), ("user", "b"), ("assistant", "2")]]
    assert up_to(history, 3) == history[:3]  # the answer is what was clicked
    assert up_to(history, 2) == history[:3]
    assert up_to(history, 0, "A") == [{"role": "user", "content": "A"}]


def test_markup_is_text_in_the_chat_and_unchanged_for_the_model():
    from pllava.apps.demo.handlers import shown, text_of

    words = "<b>x</b> <img src=1 onerror=2> &lt; a < b && c </s> <!-- -->"
    put = shown(words)
    assert not any(f"<{letter}" in put for letter in "bi/!")
    assert "&lt;" not in put
    assert text_of({"role": "user", "content": put}) == words


def test_only_uploads_are_read(client, url, tmp_path):
    """A path of the server, an address on the web, the parent folder: none is read or fetched."""
    import json
    import urllib.error
    import urllib.request

    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"words nobody may read")

    def status(address, data=None, **more):
        headers = {"Content-Type": "application/json"} | more
        request = urllib.request.Request(url + address, data=data and json.dumps(data).encode(), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    for address in (
        f"/gradio_api/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=params.yaml",
        "/gradio_api/file=../../x",
    ):
        code, body = status(address)
        assert code in (403, 404), address
        assert b"words nobody" not in body, address
        assert b"root:" not in body, address
    for address in (
        "/gradio_api/file=http://127.0.0.1:9/x",
        "/gradio_api/file=https%3A//example.org/x",
        "/gradio_api/proxy=https://a.hf.space/x",
    ):
        assert status(address)[0] == 403, address
    for path in (str(secret), "http://127.0.0.1:9/x.mp4", "/etc/passwd"):
        code, body = status("/gradio_api/call/ask", {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "What?"]})
        if code == 200:
            code, body = status(f"/gradio_api/call/ask/{json.loads(body)['event_id']}")
            assert b"event: error" in body
            assert b"words nobody" not in body
        else:
            assert code == 403


def test_a_page_of_another_origin_gets_nothing(url):
    gets_nothing(url, ["/", "/config", "/gradio_api/upload", "/gradio_api/queue/join", "/monitoring/summary", "/gradio_api/runs"])
    own = {"Origin": url, "Sec_Fetch_Site": "same-origin"}
    assert [ask(f"{url}{path}", **own)[0] for path in ("/", "/monitoring/summary", "/gradio_api/runs")] == [200, 403, 404]
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(url, **link)[0] == 200


def test_an_upload_is_gone_after_its_question(client, corpus):
    from gradio_client import handle_file

    from pllava.apps.demo.server import UPLOADS

    client.predict(handle_file(str(corpus / "MVBench/video/moving_direction/40.mp4")), "Which way?", api_name="/ask")
    assert UPLOADS.is_dir()
    assert list(UPLOADS.rglob("*.mp4")) == []


def test_one_file_sent_by_many_programs_at_once_is_answered_for_each(client, url, corpus):
    from concurrent.futures import ThreadPoolExecutor

    from gradio_client import Client, handle_file

    from pllava.apps.demo.server import UPLOADS

    clip = str(corpus / "MVBench/video/moving_direction/40.mp4")
    expected = client.predict(handle_file(clip), "Which way?", api_name="/ask")
    others = [Client(url, verbose=False, httpx_kwargs={"trust_env": False}, analytics_enabled=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(other.predict, handle_file(clip), "Which way?", api_name="/ask") for other in others for _ in range(3)]
    assert [question.result() for question in asked] == [expected] * 12
    assert list(UPLOADS.rglob("*.mp4")) == []


def test_who_sends_too_much_is_told_so(url):
    import httpx

    from pllava.apps.demo.server import MAX_FILE_SIZE
    from pllava.apps.web.guard import LARGEST_BODY

    def megabytes(count: int):
        for _ in range(count):
            yield b" " * (1 << 20)

    with httpx.Client(base_url=url, trust_env=False, timeout=30) as plain:
        json_type = {"content-type": "application/json"}
        sent = plain.post("/gradio_api/queue/join", content=megabytes((LARGEST_BODY >> 20) + 20), headers=json_type)
        assert (sent.status_code, sent.json()["detail"]) == (413, "the request is too large")
        size = int(MAX_FILE_SIZE.removesuffix("mb")) + 20
        head = b'--end\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'

        def form():
            yield head
            yield from megabytes(size)
            yield b"\r\n--end--\r\n"

        sent = plain.post("/gradio_api/upload", content=form(), headers={"content-type": "multipart/form-data; boundary=end"})
        assert sent.status_code == 413


def test_a_host_beyond_this_machine_needs_a_password(params):
    from pllava.apps.demo.server import open_page

    with pytest.raises(PllavaError, match="--auth"):
        open_page(params, model="no such model", host="0.0.0.0", port=1)
    with pytest.raises(PllavaError, match="NAME:PASSWORD"):
        open_page(params, model="no such model", auth="nopassword", port=1)
    open_to_all = params.model_copy(update={"deploy": params.deploy.model_copy(update={"host": "0.0.0.0"})})
    with pytest.raises(PllavaError, match="--auth"):
        open_page(open_to_all, model="no such model", port=1)


def test_a_deployment_logs_in_where_the_page_asks_for_a_password(params, tiny_base_dir, corpus, tmp_path, monkeypatch):
    """The monkeypatched folder and variable are this page's: the one of the other tests gets its own back."""
    from pllava.apps.demo.samples import Sample
    from pllava.apps.demo.server import open_page
    from pllava.services import deploy

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = open_page(params, model=str(tiny_base_dir), template="vicuna", port=port, auth="me:secret")
    url, wanted = f"http://127.0.0.1:{port}", {"version": None, "adapter_sha256": None}
    try:
        gets_nothing(url, ["/", "/config", "/gradio_api/queue/join"])
        for password, known in (("", False), ("me:wrong", False), ("me:secret", True)):
            monkeypatch.setenv("PLLAVA_AUTH", password)
            assert deploy._serves(url, wanted) is known
        clip = Sample(corpus / "MVBench/video/moving_direction/40.mp4", "Moving Direction", "Which way?", "left")
        assert deploy._ask(url, clip, 60)
    finally:
        page.close()


def test_uploads_that_break_off_and_idle_connections_leave_and_stop_nothing(url):
    import time

    from pllava.apps.demo.server import UPLOADS

    port = int(url.rpartition(":")[2])
    form = b'--end\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(1 << 20)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: multipart/form-data; boundary=end\r\n"
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", port), 10) as half:
            half.sendall(head.encode() + f"Content-Length: {100 << 20}\r\n\r\n".encode() + form)
            time.sleep(0.1)
    until = time.monotonic() + 10
    while (left := list(UPLOADS.rglob("tmp*"))) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(300)]
    assert ask(f"{url}/config")[0] == 200
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/x+json", "application/json; charset=utf-8", None])
def test_deep_json_is_refused_under_every_content_type(url, kind):
    assert ask(f"{url}/gradio_api/call/ask", "POST", b"[" * 100_000, Content_Type=kind)[0] == 400
