"""A video is encoded once, and every answer is the one that the whole prompt gives."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pllava.chat import VideoChat, WatchedVideo, load_template
from pllava.chat.prefix_cache import ROOM
from pllava.core.errors import PllavaError
from pllava.model.processing import PllavaProcessor
from pllava.model.shared_prefix import SharedPrefixCache
from pllava.video.reader import read_video

Plain = Callable[..., list[int]]
WAYS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 2, "repetition_penalty": 1.3, "length_penalty": 2.0},
    {"repetition_penalty": 1.5},
    {"temperature": 1.3, "seed": 3},
    {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.2, "seed": 4},
    {"temperature": 1.0, "num_beams": 2, "seed": 5},
]
QUESTIONS = ["Who?", "Where is the man, and what is he doing there with all these things?", "What happens?"]
TOKENS = 8


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("template", ["vicuna", "eval_mvbench"])
def test_cached_and_batched_is_plain(chat: VideoChat, clip: Path, reference: Path, plain: Plain, template: str, options: dict[str, Any]):
    chat = chat.with_template(template)
    other = reference / "video" / "clip_short.mp4"
    video, second = chat.watch_all([clip, other])
    expected = [plain(video, question, **options) for question in QUESTIONS]
    assert [video.ask(question, TOKENS, **options).token_ids for question in QUESTIONS] == expected
    assert [answer.token_ids for answer in video.ask_all(QUESTIONS, TOKENS, **options)] == expected
    assert [answer.token_ids for answer in video.ask_all(QUESTIONS, TOKENS, batch_size=2, **options)] == expected
    # Two videos of different sizes, one with more questions than the other, in one batch.
    asked = [*QUESTIONS, QUESTIONS[1]]
    together = chat.ask_each([video, video, video, second], asked, max_new_tokens=TOKENS, **options)
    assert [answer.token_ids for answer in together] == [*expected, plain(second, QUESTIONS[1], **options)]


def test_videos_of_a_batch_are_those_watched_alone(chat: VideoChat, reference: Path, plain: Plain):
    clips = [reference / "video" / "clip_short.mp4", reference / "video" / "clip_long.mp4"]
    videos = chat.watch_all([clips[0], read_video(clips[1], 2), clips[1], clips[0]], batch_size=3)
    assert [len(video.frames.frames) for video in videos] == [4, 2, 4, 4]
    assert chat.cache.stats().entries == 3
    for video, answer in zip(videos, chat.ask_each(videos, QUESTIONS[1], max_new_tokens=TOKENS), strict=True):
        assert answer.token_ids == plain(video, QUESTIONS[1])
    with pytest.raises(PllavaError, match="4 videos, 2 questions"):
        chat.ask_each(videos, QUESTIONS[:2])


def test_a_batch_may_be_empty_but_not_of_size_nothing(video: WatchedVideo, chat: VideoChat):
    assert video.ask_all([]) == []
    for wrong in (lambda: video.ask_all(["Who?"], batch_size=0), lambda: chat.watch_all([video.frames], batch_size=0)):
        with pytest.raises(PllavaError, match="batch_size 0"):
            wrong()


def test_equal_pixels_at_other_times_keep_their_times(chat: VideoChat, video: WatchedVideo):
    later = dataclasses.replace(video.frames, times=video.frames.times + 60)
    watched = chat.watch_all([video.frames, later])
    assert [one.frames.times[0] for one in watched] == [video.frames.times[0], video.frames.times[0] + 60]


def test_long_answers_outgrow_the_room_behind_the_prefix(video: WatchedVideo, plain: Plain):
    expected = plain(video, "Who?", max_new_tokens=ROOM + 30)
    assert len(expected) > ROOM
    assert video.ask("Who?", ROOM + 30).token_ids == expected
    assert video.ask("Who?", TOKENS).token_ids == expected[:TOKENS]
    assert video.ask_all(["Who?", "What?"], ROOM + 30)[0].token_ids == expected


def test_asking_leaves_no_trace(video: WatchedVideo):
    first = video.ask(QUESTIONS[0], TOKENS)
    video.ask_all(QUESTIONS, TOKENS)
    assert video.ask(QUESTIONS[0], TOKENS) == first


def test_a_conversation_remembers(video: WatchedVideo, plain: Plain):
    conversation = video.conversation()
    first = conversation.ask("Who?", TOKENS)
    second = conversation.ask("And then?", TOKENS)
    assert first.text in second.prompt
    assert conversation.history[1] == ("And then?", second.text)
    assert second.token_ids == plain(video, "And then?", [("Who?", first.text)])


def test_later_turns_compute_only_what_is_new(video: WatchedVideo, plain: Plain, monkeypatch: pytest.MonkeyPatch):
    given: list[int] = []
    pack = SharedPrefixCache.pack

    def counted(self: SharedPrefixCache, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> dict[str, Any]:
        given.append(input_ids.shape[1])
        return pack(self, input_ids, attention_mask)

    monkeypatch.setattr(SharedPrefixCache, "pack", counted)
    conversation = video.conversation()
    before = 0
    for turn, question in enumerate([*QUESTIONS, "And what happens after all of that?"]):
        history = tuple(conversation.history)
        given.clear()
        answer = conversation.ask(question, TOKENS)
        assert answer.token_ids == plain(video, question, history)
        length = len(video.chat.tokenize(answer.prompt))
        if turn:
            assert given[0] <= length - before  # the last prompt is not read again
        before = length - 1  # its last token may join the answer's first
    # Another conversation in between changes neither.
    other = video.conversation()
    other.ask("Why?", TOKENS)
    history = tuple(conversation.history)
    assert conversation.ask("Why?", TOKENS).token_ids == plain(video, "Why?", history)
    assert list(other.stream("Where?", TOKENS))
    assert other.history[-1][0] == "Where?"


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

    monkeypatch.setattr(video.chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(video.stream("Who?"))


def test_sampling_follows_the_seed_and_leaves_the_generator(video: WatchedVideo):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    answers = [video.ask("Who?", 12, temperature=1.5, seed=seed).token_ids for seed in (1, 1, 2, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert answers[0] == answers[1]
    assert len({tuple(answer) for answer in answers}) > 1


def test_next_to_no_temperature_is_none(video: WatchedVideo):
    """Logits divided by it would be infinite."""
    assert video.ask("Who?", 6, temperature=1e-40, seed=1).token_ids == video.ask("Who?", 6).token_ids


def test_what_is_refused(video: WatchedVideo, chat: VideoChat, tmp_path: Path):
    for question in ("<image> again", "fine</s>", "USER: no"):
        with pytest.raises(PllavaError, match="meaning of its own"):
            video.ask(question)
    with pytest.raises(PllavaError, match="meaning of its own"):
        video.stream("ASSISTANT: yes")  # before the first piece
    with pytest.raises(PllavaError, match="no such file"):
        chat.watch(tmp_path / "none.mp4")
    for nothing, reason in (("/dev/zero", "neither a file"), ("a" * 300, "no name")):  # not read to their end
        with pytest.raises(PllavaError, match=reason):
            chat.watch(nothing)
    with pytest.raises(PllavaError, match="an earlier answer holds '<image>'"):  # it would stand for a second video
        video.ask("Who?", history=[("Where?", "In an <image>.")])
    with pytest.raises(PllavaError, match="half of a character"):
        video.ask("Who \ud800?")
    with pytest.raises(PllavaError, match="sampled already"):
        chat.watch(video.frames, start=1.0)
    wrong = {"max_new_tokens": 0, "temperature": float("inf"), "top_p": 0, "num_beams": 0, "repetition_penalty": 0, "stop": ""}
    for name, value in wrong.items():
        with pytest.raises(PllavaError, match=name):
            video.ask("Who?", **{name: value})


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


@pytest.mark.parametrize("options", WAYS[:4], ids=str)
def test_generate_takes_a_batch_of_videos(chat: VideoChat, reference: Path, plain: Plain, options: dict[str, Any]):
    """`model.generate` itself, without VideoChat's cache: clips of different sizes, prompts of different lengths."""
    clips = [read_video(reference / "video" / name, 4) for name in ("clip_long.mp4", "clip_short.mp4")]
    clips.append(read_video(reference / "video" / "clip_long.mp4", 3))
    prompts = [chat.template.prompt_for(question) for question in QUESTIONS]
    batch = chat.processor(text=prompts, videos=[clip.frames for clip in clips])
    together = chat.generate(**batch, **chat.settings(TOKENS, **options))
    assert together == [plain(chat.watch(clip), question, **options) for clip, question in zip(clips, QUESTIONS, strict=True)]
