"""One model for many visitors: questions one at a time, a clip encoded once, memory bounded."""

import shutil
import threading
import time
from itertools import pairwise

import pytest

from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.core.errors import PllavaError
from pllava.video.limits import Limits


@pytest.fixture
def chat(tiny_model, tiny_processor):
    import pllava

    return pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")


@pytest.fixture
def clips(corpus, tmp_path):
    """a.mp4 and b.mp4 differ; copy.mp4 is a.mp4 under another name."""
    files = sorted((corpus / "MVBench/video").rglob("*.mp4"))[:2]
    for name, file in {"a": files[0], "b": files[1], "copy": files[0]}.items():
        shutil.copy(file, tmp_path / f"{name}.mp4")
    return tmp_path


BRIEF = Settings(max_new_tokens=3)


def test_a_clip_is_encoded_once_whatever_its_name(chat, clips):
    engine = ChatEngine(chat)
    assert engine.ask(clips / "a.mp4", "why?", BRIEF) == engine.ask(clips / "copy.mp4", "why?", BRIEF)
    assert list(engine.stream(clips / "a.mp4", "and?", settings=BRIEF))
    assert chat.cache.stats().misses == 1


def test_encoded_clips_are_bounded_in_bytes(chat, clips):
    ChatEngine(chat).watch(clips / "a.mp4")
    stats = chat.cache.stats()
    chat.cache.max_bytes = stats.bytes
    ChatEngine(chat).watch(clips / "b.mp4")
    assert chat.cache.stats().entries == 1
    assert chat.cache.stats().bytes <= stats.bytes


def test_one_question_at_a_time(chat, clips, monkeypatch):
    inside, most = [], []
    answer = type(chat).answer

    def watched(self, *arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        found = answer(self, *arguments, **options)
        inside.pop()
        return found

    monkeypatch.setattr(type(chat), "answer", watched)
    engine = ChatEngine(chat)
    threads = [threading.Thread(target=engine.ask, args=(clips / "a.mp4", f"{n}?", BRIEF)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_stream_grows_and_a_stopped_one_frees_the_model(chat, clips):
    engine = ChatEngine(chat)
    long = Settings(max_new_tokens=30)
    pieces = list(engine.stream(clips / "a.mp4", "why?", settings=long))
    assert len(pieces) > 1
    assert all(after.startswith(before) for before, after in pairwise(pieces))
    stopped = engine.stream(clips / "a.mp4", "why?", settings=long)
    next(stopped)
    stopped.close()
    assert engine.ask(clips / "a.mp4", "why?", long) == pieces[-1]


def test_an_error_frees_the_model(chat, clips):
    engine = ChatEngine(chat)
    with pytest.raises(PllavaError, match="missing is no longer here"):
        engine.ask(clips / "missing", "?")
    assert isinstance(engine.ask(clips / "a.mp4", "ok?", BRIEF), str)


@pytest.mark.parametrize(
    ("limits", "says"), [(Limits(max_bytes=9), "bytes, the limit is 9"), (Limits(max_seconds=0.5), "seconds, the limit is 0")]
)
def test_a_file_above_a_limit_is_not_decoded(chat, clips, limits, says):
    with pytest.raises(PllavaError, match=says):
        ChatEngine(chat, limits).ask(clips / "a.mp4", "?")
    assert chat.cache.stats().entries == 0


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
    lora_chat.cache.max_bytes = 0
    engine = ChatEngine(lora_chat)

    def logits(settings):
        with engine.use(settings) as chat, torch.inference_mode():
            watched = chat.watch(clip)
            assert len(watched.frames.frames) == (settings.num_frames or chat.processor.num_frames)
            ids = chat.processor.expand_ids(chat.processor.tokenizer(chat.template.prompt_for("Which way?"))["input_ids"])
            pixels = chat.processor.preprocess_video(watched.frames.frames)[None]
            return chat.model(input_ids=torch.tensor([ids]), pixel_values_videos=pixels).logits[0, -1]

    plain = logits(Settings())
    for settings in (Settings(lora_alpha=1.0), Settings(num_frames=2), Settings(num_frames=6), Settings(system="You are brief.")):
        other = logits(settings)
        assert other.isfinite().all(), settings
        assert not (other.shape == plain.shape and torch.allclose(plain, other)), settings
        assert torch.equal(plain, logits(Settings()))


def test_a_cached_clip_is_one_of_the_same_settings(lora_chat, corpus):
    clip = corpus / "MVBench/video/moving_direction/40.mp4"
    engine = ChatEngine(lora_chat)
    choices = [Settings(), Settings(num_frames=2), Settings(lora_alpha=1.0), Settings(system="You are brief.")]
    for expected_misses in (len(choices), len(choices)):  # the second time, all are found
        for settings in choices:
            assert len(engine.watch(clip, settings).frames.frames) == (settings.num_frames or lora_chat.processor.num_frames)
        assert lora_chat.cache.stats().misses == expected_misses
