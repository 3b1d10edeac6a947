"""One model for many visitors: questions one at a time, a clip encoded once, memory bounded."""

import threading
import time
from types import SimpleNamespace

import pytest

from pllava.app.engine import ChatEngine, Settings
from pllava.errors import PllavaError
from pllava.video.limits import Limits


class CountingChat:
    """Stands for VideoChat where only what the engine does with it is looked at."""

    sampling = "eval"
    processor = SimpleNamespace(num_frames=8)

    def __init__(self):
        self.encoded = []
        self.inside = 0
        self.most_inside = 0

    def watch(self, path):
        self.encoded.append(path.name)
        return SimpleNamespace(ask=self._ask, stream=lambda question, history, **options: iter(["one ", "two"]))

    def _ask(self, question, **options):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return SimpleNamespace(text=question.upper())


def _engine(chat, **options):
    return ChatEngine(chat, read=lambda path, *sampling, limits: path, **options)


@pytest.fixture
def clips(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "copy_of_a").write_bytes(b"a")
    return tmp_path


def test_a_clip_is_encoded_once_whatever_its_name(clips):
    chat = CountingChat()
    engine = _engine(chat)
    assert engine.ask(clips / "a", "why?") == "WHY?"
    engine.ask(clips / "copy_of_a", "why?")
    assert chat.encoded == ["a"]


def test_only_the_last_few_clips_stay_encoded(clips):
    chat = CountingChat()
    engine = _engine(chat, keep=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        engine.ask(clips / name, "?")
    assert chat.encoded == ["a", "b", "c", "b"]


def test_one_question_at_a_time(clips):
    chat = CountingChat()
    engine = _engine(chat)
    threads = [threading.Thread(target=engine.ask, args=(clips / "a", "?")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chat.most_inside == 1


def test_stream_grows_and_a_stopped_one_frees_the_model(clips):
    engine = _engine(CountingChat())
    assert list(engine.stream(clips / "a", "?")) == ["one ", "one two"]
    stopped = engine.stream(clips / "a", "?")
    next(stopped)
    stopped.close()
    assert engine.ask(clips / "a", "still there?") == "STILL THERE?"


def test_an_error_frees_the_model(clips):
    engine = _engine(CountingChat())
    with pytest.raises(PllavaError, match="missing is no longer here"):
        engine.ask(clips / "missing", "?")
    assert engine.ask(clips / "a", "ok?") == "OK?"


def test_a_file_above_the_limit_is_not_decoded(clips):
    chat = CountingChat()
    with pytest.raises(PllavaError, match="1 bytes, the limit is 0"):
        _engine(chat, limits=Limits(max_bytes=0)).ask(clips / "a", "?")
    assert chat.encoded == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_frames": 0}, "frames"),
        ({"num_frames": 1000}, "frames"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 10**9}, "tokens long"),
        ({"num_beams": 99}, "beams"),
        ({"lora_alpha": -1}, "alpha"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, says):
    with pytest.raises(PllavaError, match=says):
        Settings(**values)


@pytest.fixture
def lora_chat(load_tiny, tiny_processor):
    import pllava

    return pllava.VideoChat(load_tiny("tiny56_base", adapter="tiny56_lora_r8", fresh=True), tiny_processor, template="vicuna")


def test_settings_of_one_visitor_are_gone_for_the_next(lora_chat, corpus):
    """Frames, alpha and system prompt change what the model computes, and nothing of them stays."""
    import torch

    clip = corpus / "MVBench/video/moving_direction/40.mp4"
    engine = ChatEngine(lora_chat, keep=0)

    def logits(settings):
        with engine.use(settings) as chat, torch.inference_mode():
            watched = engine._watch(chat, clip, settings)
            assert len(watched.frames.frames) == (settings.num_frames or chat.processor.num_frames)
            ids = chat.processor.expand_ids(chat.processor.tokenizer(chat.template.prompt_for("Which way?"))["input_ids"])
            pixels = chat.processor.preprocess_video(watched.frames.frames)[None]
            return chat.model(input_ids=torch.tensor([ids]), pixel_values_videos=pixels).logits[0, -1]

    plain = logits(Settings())
    for settings in (Settings(lora_alpha=1.0), Settings(num_frames=2), Settings(num_frames=6), Settings(system="You are brief.")):
        other = logits(settings)
        assert other.isfinite().all() and not (other.shape == plain.shape and torch.allclose(plain, other)), settings
        assert torch.equal(plain, logits(Settings()))
