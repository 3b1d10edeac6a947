"""The official client against a server in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

import pllava

KEY = "a key for this test"
ROOT = Path(__file__).resolve().parents[2]


class Server:
    def __init__(self, port: int, process: subprocess.Popen[str], model: str) -> None:
        self.port, self.process, self.model = port, process, model
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key: str = KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **({"max_retries": 0} | options))

    def raw(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Bearer {KEY}"} | headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def metric(self, name: str) -> float:
        lines = self.raw("/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and not line.startswith("#"))


@pytest.fixture(scope="module")
def server(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = str(reference / "ckpt" / "tiny56_base")
    log = tmp_path_factory.mktemp("serve") / "log"
    options = ["--port", str(port), "--max-waiting", "1", "--max-megabytes", "1", "--max-new-tokens", "3000", "--timeout", "60"]
    command = [sys.executable, "-m", "pllava.cli", "serve", "--model", model, "--template", "vicuna", *options]
    environment = os.environ | {"PLLAVA_API_KEY": KEY, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)
    server = Server(port, process, model)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if server.raw("/health")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM), log.read_text()
    assert KEY not in log.read_text()


def user(clip: Path, text: str = "Who is there?") -> dict[str, Any]:
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    return {"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def clip(reference: Path) -> Path:
    return reference / "video" / "clip_long.mp4"


@pytest.fixture(scope="module")
def chat(reference: Path) -> Any:
    model, processor = pllava.load(reference / "ckpt" / "tiny56_base", dtype="float32")
    return pllava.VideoChat(model, processor, "vicuna")


@pytest.mark.integration
def test_answers_are_those_of_the_library(server: Server, clip: Path, chat: Any):
    client = server.client()
    assert [model.id for model in client.models.list()] == [server.model]
    expected = chat.watch(clip).ask("Who is there?", 20)
    given: Any = client.chat.completions.create(model=server.model, messages=[user(clip)], max_tokens=20)
    assert given.choices[0].message.content == expected.text
    assert given.choices[0].finish_reason == expected.finish_reason == "length"
    assert (given.usage.prompt_tokens, given.usage.completion_tokens) == (expected.prompt_tokens, 20)

    stream: Any = client.chat.completions.create(
        model=server.model, messages=[user(clip)], max_completion_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert server.metric("pllava_completion_seconds_count") == 2  # the whole answer, and the stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == expected.prompt_tokens + 20
    assert len(chunks) > 5
    assert len({chunk.id for chunk in chunks}) == 1

    stop = expected.text[4:7]
    cut: Any = client.chat.completions.create(model=server.model, messages=[user(clip)], max_tokens=20, stop=[stop])
    assert stop not in cut.choices[0].message.content
    assert cut.choices[0].finish_reason == "stop"

    def sampled(seed: int) -> str:
        made: Any = client.chat.completions.create(
            model=server.model, messages=[user(clip)], max_tokens=20, temperature=1.2, top_p=0.9, seed=seed
        )
        return made.choices[0].message.content

    assert sampled(1) == sampled(1) == chat.watch(clip).ask("Who is there?", 20, temperature=1.2, top_p=0.9, seed=1).text
    assert sampled(1) != sampled(2)


@pytest.mark.integration
def test_a_conversation_and_an_uploaded_file(server: Server, clip: Path, chat: Any):
    client = server.client()
    uploaded = client.files.create(file=("my clip.bin", clip.read_bytes()), purpose="user_data")
    assert uploaded.filename == "my clip.bin"
    assert uploaded.bytes == clip.stat().st_size
    assert [file.id for file in client.files.list()] == [uploaded.id]
    first: Any = {"role": "user", "content": [{"type": "file", "file": {"file_id": uploaded.id}}, {"type": "text", "text": "Who?"}]}
    messages: Any = [{"role": "system", "content": "Look closely."}, first, {"role": "assistant", "content": "A man."}]
    messages.append({"role": "user", "content": "And then?"})
    given: Any = client.chat.completions.create(model=server.model, messages=messages, max_tokens=12)
    other = chat.with_template(chat.template.model_copy(update={"system": "Look closely."}))
    expected = other.watch(clip).ask("And then?", 12, [("Who?", "A man.")])
    assert given.choices[0].message.content == expected.text
    assert given.usage.prompt_tokens == expected.prompt_tokens
    assert server.metric("pllava_video_cache_hits") >= 1
    client.files.delete(uploaded.id)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=server.model, messages=messages)


def ask(server: Server, clip: Path, **changes: Any) -> Any:
    request = {"model": server.model, "messages": [user(clip)], "max_tokens": 4} | changes
    return server.client().chat.completions.create(**request)


@pytest.mark.integration
def test_a_wrong_key_is_refused(server: Server):
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong").models.list()


@pytest.mark.integration
def test_health_needs_no_key(server: Server):
    assert server.raw("/health", Authorization="")[0] == 200


ELSEWHERE = {"type": "video_url", "video_url": {"url": "https://example.com/clip.mp4"}}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "is not served here"),
        ({"n": 2}, openai.BadRequestError, "one answer a request"),
        (
            {"messages": [{"role": "user", "content": [ELSEWHERE, {"type": "text", "text": "Who?"}]}]},
            openai.BadRequestError,
            "fetches nothing",
        ),
        ({"text": "Who?</s>"}, openai.BadRequestError, "meaning of its own"),
        ({"text": "Who? " * 3000}, openai.BadRequestError, "context"),
    ],
    ids=["another model", "two answers", "a clip elsewhere", "a marker of the template", "too long"],
)
def test_a_request_that_cannot_be_answered_is_refused_with_the_reason(
    server: Server, clip: Path, changes: dict[str, Any], error: type[openai.APIStatusError], said: str
):
    if "text" in changes:
        changes = {"messages": [user(clip, changes["text"])]}
    with pytest.raises(error, match=said):
        ask(server, clip, **changes)
    assert ask(server, clip).choices[0].message.content is not None, "the next request is answered"


@pytest.mark.integration
@pytest.mark.parametrize("stream", [False, True])
def test_a_clip_that_is_no_video_is_refused_without_its_path(server: Server, tmp_path: Path, stream: bool):
    (tmp_path / "junk.mp4").write_bytes(b"this is no video" * 100)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server, tmp_path / "junk.mp4", stream=stream)
    assert "/tmp" not in str(refused.value)
    assert refused.value.body["type"] == "invalid_request_error"  # type: ignore[index]


@pytest.mark.integration
@pytest.mark.parametrize(("content", "code"), [(b"this is no video", 400), (b"\0" * (1 << 20 | 1), 413)], ids=["no video", "too large"])
def test_a_file_that_cannot_be_used_is_refused(server: Server, content: bytes, code: int):
    with pytest.raises(openai.APIStatusError) as refused:
        server.client().files.create(file=("clip.mp4", content), purpose="user_data")
    assert refused.value.status_code == code


@pytest.mark.integration
@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [(b"x" * (3 << 20), "application/json", 413), (b"{", "application/json", 400), (b"{}", "text/plain", 415)],
    ids=["too large", "no JSON", "another type"],
)
def test_a_body_that_is_no_request_is_refused(server: Server, body: bytes, kind: str, code: int):
    assert server.raw("/v1/chat/completions", body, **{"Content-Type": kind})[0] == code


@pytest.mark.integration
def test_an_address_that_is_not_there_is_said_in_the_clients_own_form(server: Server):
    status, _, answer = server.raw("/v1/nothing")
    assert status == 404
    assert json.loads(answer)["error"]["type"] == "not_found_error"


@pytest.mark.integration
def test_a_reader_that_died_while_nobody_used_it_costs_no_request(server: Server, clip: Path, reference: Path):
    other = reference / "video" / "clip_short.mp4"
    ask(server, clip)
    readers = [
        child
        for child in psutil.Process(server.process.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "pllava.video.worker" in child.cmdline()
    ]
    assert readers
    for reader in readers:
        reader.kill()
        while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    assert ask(server, other)


@pytest.mark.integration
def test_a_full_queue_and_a_client_that_leaves(server: Server, clip: Path):
    client = server.client()
    messages: Any = [user(clip, "Where is it now?")]  # a long answer of this model
    running: Any = client.chat.completions.create(model=server.model, messages=messages, max_tokens=3000, stream=True)
    next(iter(running))
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(server.client().chat.completions.create(model=server.model, messages=messages, max_tokens=2))
        except openai.APIError as error:
            results.append(error)

    waiter = threading.Thread(target=ask)
    waiter.start()
    for _ in range(100):
        if server.metric("pllava_requests_waiting") == 1:
            break
        time.sleep(0.05)
    with pytest.raises(openai.RateLimitError) as full:
        client.chat.completions.create(model=server.model, messages=messages, max_tokens=2)
    assert int(full.value.response.headers["retry-after"]) >= 1
    running.close()  # long before its end
    waiter.join(20)
    assert results
    assert not isinstance(results[0], Exception)
    assert server.metric('pllava_abandoned_total{reason="disconnected"}') >= 1

    # A client that leaves while it waits for a whole answer stops the model as well.
    before = server.metric("pllava_abandoned_total")
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=1.0).chat.completions.create(model=server.model, messages=messages, max_tokens=3000)
    for _ in range(100):
        if server.metric("pllava_abandoned_total") == before + 1 and server.metric("pllava_requests_running") == 0:
            break
        time.sleep(0.1)
    else:
        pytest.fail(server.raw("/metrics")[2].decode())


@pytest.mark.integration
def test_requests_at_once_are_answered_in_turn(server: Server, clip: Path, chat: Any):
    questions = ["Who?", "Where is it?", "Why?", "What is that?"]
    expected = [chat.watch(clip).ask(question, 8).text for question in questions]

    def ask(question: str) -> Any:
        made: Any = server.client(max_retries=20).chat.completions.create(model=server.model, messages=[user(clip, question)], max_tokens=8)
        return made.choices[0].message.content

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, questions)) == expected
