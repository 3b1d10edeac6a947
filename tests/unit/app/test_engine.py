"""One model for many visitors: questions one at a time, a clip encoded once, memory bounded."""

import threading
import time
from types import SimpleNamespace

import pytest

from pllava.app.engine import ChatEngine


class CountingChat:
    """Stands for VideoChat where only what the engine does with it is looked at."""

    def __init__(self):
        self.encoded = []
        self.inside = 0
        self.most_inside = 0

    def watch(self, path):
        self.encoded.append(path.name)
        return SimpleNamespace(ask=self._ask, stream=lambda question, most, history: iter(["one ", "two"]))

    def _ask(self, question, max_new_tokens):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return SimpleNamespace(text=question.upper())


@pytest.fixture
def clips(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "copy_of_a").write_bytes(b"a")
    return tmp_path


def test_a_clip_is_encoded_once_whatever_its_name(clips):
    chat = CountingChat()
    engine = ChatEngine(chat)
    assert engine.ask(clips / "a", "why?") == "WHY?"
    engine.ask(clips / "copy_of_a", "why?")
    assert chat.encoded == ["a"]


def test_only_the_last_few_clips_stay_encoded(clips):
    chat = CountingChat()
    engine = ChatEngine(chat, keep=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        engine.ask(clips / name, "?")
    assert chat.encoded == ["a", "b", "c", "b"]


def test_one_question_at_a_time(clips):
    chat = CountingChat()
    engine = ChatEngine(chat)
    threads = [threading.Thread(target=engine.ask, args=(clips / "a", "?")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chat.most_inside == 1


def test_stream_grows_and_a_stopped_one_frees_the_model(clips):
    engine = ChatEngine(CountingChat())
    assert list(engine.stream(clips / "a", "?")) == ["one ", "one two"]
    stopped = engine.stream(clips / "a", "?")
    next(stopped)
    stopped.close()
    assert engine.ask(clips / "a", "still there?") == "STILL THERE?"


def test_an_error_frees_the_model(clips):
    engine = ChatEngine(CountingChat())
    with pytest.raises(FileNotFoundError):
        engine.ask(clips / "missing", "?")
    assert engine.ask(clips / "a", "ok?") == "OK?"
