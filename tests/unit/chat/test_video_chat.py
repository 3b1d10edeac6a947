"""A video is encoded once, and every answer is the one that the whole prompt gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pllava.chat import VideoChat, WatchedVideo, load_template
from pllava.errors import PllavaError
from pllava.model.processing import PllavaProcessor

QUESTIONS = ["Who?", "Where is the man, and what is he doing there with all these things?", "What happens?"]
TOKENS = 8


@pytest.fixture(scope="module")
def chat(tiny_model: Any, tiny_processor: Any) -> VideoChat:
    return VideoChat(tiny_model, tiny_processor, "vicuna")


@pytest.fixture(scope="module")
def video(chat: VideoChat, reference: Path) -> WatchedVideo:
    return chat.watch(reference / "video" / "clip_long.mp4")


def plain(video: WatchedVideo, question: str, history: Any = ()) -> list[int]:
    """Generated without a cache of the video."""
    chat = video.chat
    batch = chat.processor(text=chat.template.prompt_for(question, history), videos=[video.frames.frames])
    return chat.generate(**batch, **chat.settings(TOKENS, 0, 1))[0]


def test_cached_is_plain(video: WatchedVideo):
    for question in QUESTIONS:
        assert video.ask(question, TOKENS).token_ids == plain(video, question)


def test_batched_is_single(video: WatchedVideo):
    assert video.ask_all(QUESTIONS, TOKENS) == [video.ask(question, TOKENS) for question in QUESTIONS]
    assert video.ask_all(QUESTIONS, TOKENS, batch_size=2) == video.ask_all(QUESTIONS, TOKENS)
    assert video.ask_all([]) == []


def test_asking_leaves_no_trace(video: WatchedVideo):
    first = video.ask(QUESTIONS[0], TOKENS)
    video.ask_all(QUESTIONS, TOKENS)
    assert video.ask(QUESTIONS[0], TOKENS) == first


def test_a_conversation_remembers(video: WatchedVideo):
    conversation = video.conversation()
    first = conversation.ask("Who?", TOKENS)
    second = conversation.ask("And then?", TOKENS)
    assert first.text in second.prompt and conversation.history[1] == ("And then?", second.text)
    assert second.token_ids == plain(video, "And then?", [("Who?", first.text)])


def test_the_stream_is_the_answer_in_pieces(video: WatchedVideo):
    for question in QUESTIONS[:2]:
        assert "".join(video.stream(question, 20)) == video.ask(question, 20).text


def test_leaving_the_stream_stops_the_model(video: WatchedVideo):
    before = threading.active_count()
    pieces = video.stream("Who?", 2000)
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_an_error_in_the_stream_reaches_the_reader(video: WatchedVideo, monkeypatch: pytest.MonkeyPatch):
    def fail(**_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(video.chat, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(video.stream("Who?"))


def test_sampling_follows_the_seed_and_leaves_the_generator(video: WatchedVideo):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    answers = [video.ask("Who?", 12, temperature=1.5, seed=seed).token_ids for seed in (1, 1, 2, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert answers[0] == answers[1] and len({tuple(answer) for answer in answers}) > 1


def test_what_is_refused(video: WatchedVideo, chat: VideoChat, tmp_path: Path):
    for question in ("<image> again", "fine</s>", "USER: no"):
        with pytest.raises(PllavaError, match="meaning of its own"):
            video.ask(question)
    with pytest.raises(PllavaError, match="meaning of its own"):
        video.stream("ASSISTANT: yes")  # before the first piece
    with pytest.raises(PllavaError, match="no such file"):
        chat.watch(tmp_path / "none.mp4")
    with pytest.raises(PllavaError, match="sampled already"):
        chat.watch(video.frames, start=1.0)
    with pytest.raises(PllavaError, match="need >= 1"):
        video.ask("Who?", max_new_tokens=0)


def test_recorded_end_to_end(reference: Path, load_tiny: Callable[..., Any]):
    """Decoding, pixels, prompt, generation and trimming of the published scripts, as far as the top two logits are apart."""
    prompts = json.loads((reference / "prompts.json").read_text())["templates"]
    cases = json.loads((reference / "e2e.json").read_text())["cases"]
    cases = [case for case in cases if (reference / "ckpt" / case["ckpt"]).is_dir()]
    assert {case["adapter"] is None for case in cases} == {True, False}
    for case in cases:
        model = load_tiny(case["ckpt"], adapter=case["adapter"], lora_alpha=case["lora_alpha"])
        processor = PllavaProcessor.from_pretrained(reference / "ckpt" / case["ckpt"])
        demo = case["script"].startswith("demo")
        system = case["system"] if demo else prompts[case["conv_mode"]]["system"]
        template = load_template("demo" if demo else case["conv_mode"]).model_copy(update={"system": system})
        chat = VideoChat(model, processor, template, sampling="demo" if demo else "eval")
        video = chat.watch(reference / case["video"], *(case.get("bound") or ()))
        pixels = processor.preprocess_video(video.frames.frames)
        assert list(pixels.shape) == case["pixel_values_shape"]
        assert float(pixels.double().sum()) == pytest.approx(case["pixel_values_sum"], abs=1e-2)
        history = [(case["messages_after"][1][1], case["messages_after"][2][1])] if case["script"] == "demo_turn2" else []
        safe = min([case["safe_steps"], *(case["new_ids"].index(i) for i in [processor.image_token_id] if i in case["new_ids"])])
        answer = video.ask(case["question"], case["max_new_tokens"] if safe == len(case["new_ids"]) else max(1, safe), history)
        assert processor.tokenizer(answer.prompt)["input_ids"] == case["input_ids"]
        assert answer.token_ids[:safe] == case["new_ids"][:safe]
        if safe == len(case["new_ids"]):
            assert answer.text == case["returned"].strip()  # the published demo keeps white space around a reply
