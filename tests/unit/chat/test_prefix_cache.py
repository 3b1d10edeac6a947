"""Encoded videos are found by content, bounded in bytes, and never those of other weights."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pllava.chat import VideoChat, WatchedVideo, load_template
from pllava.chat.prefix_cache import EncodedVideo, PrefixCache
from pllava.core.errors import PllavaError
from pllava.video.reader import read_video


def entry(size: int) -> EncodedVideo:
    return EncodedVideo(None, [1], None, torch.zeros(size, 1, dtype=torch.uint8))


def test_the_least_recently_used_goes_first():
    cache = PrefixCache(max_bytes=100)
    for name in "abc":
        cache.find_or_make(name, lambda: entry(40))
    assert cache.find("a") is None
    assert cache.find("b") is not None
    cache.find_or_make("d", lambda: entry(40))
    assert cache.find("c") is None
    assert cache.find("b") is not None
    assert cache.find("d") is not None
    assert cache.find_or_make("large", lambda: entry(101)).bytes == 101  # given, not kept
    assert cache.stats().bytes <= 100
    cache.clear()
    assert cache.stats().entries == cache.stats().bytes == 0


def test_hits_and_misses_are_counted():
    cache = PrefixCache(max_bytes=100)
    made = [cache.find_or_make("a", lambda: entry(10)) for _ in range(3)]
    assert made[0] is made[2]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.evictions, stats.entries, stats.bytes, stats.max_bytes) == (2, 1, 0, 1, 10, 100)


def test_making_that_fails_leaves_nothing():
    cache = PrefixCache(max_bytes=100)
    with pytest.raises(ZeroDivisionError):
        cache.find_or_make("a", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert cache.find_or_make("a", lambda: entry(1)).bytes == 1


def test_the_same_bytes_are_the_same_video(chat: VideoChat, clip: Path, tmp_path: Path):
    first = chat.watch(clip)
    shutil.copy(clip, tmp_path / "another name")
    assert chat.watch(tmp_path / "another name").encoded() is first.encoded()
    assert chat.watch(read_video(clip, 4)).encoded() is chat.watch(read_video(clip, 4)).encoded()
    assert chat.watch(clip, 0, 1).encoded() is not first.encoded()  # other frames
    assert chat.with_template("eval_mvbench").watch(clip).encoded() is not first.encoded()  # another text before the video
    assert chat.with_template("vicuna").watch(clip).encoded() is first.encoded()
    assert (chat.cache.stats().hits, chat.cache.stats().misses) == (3, 4)


def test_a_file_that_changed_is_another_video(chat: VideoChat, reference: Path, tmp_path: Path):
    path = tmp_path / "clip.mp4"
    shutil.copy(reference / "video" / "clip_long.mp4", path)
    first = chat.watch(path)
    shutil.copy(reference / "video" / "clip_short.mp4", path)
    assert not np.array_equal(chat.watch(path).frames.frames, first.frames.frames)


def test_a_folder_of_frames_is_known_by_its_frames(chat: VideoChat, reference: Path, tmp_path: Path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(sorted((reference / "frames").glob("big*.png")), 1):
        shutil.copy(picture, folder / f"{number:05d}.png")
    shutil.copytree(folder, tmp_path / "copy")
    assert chat.watch(folder).encoded() is chat.watch(tmp_path / "copy").encoded()


def test_memory_stays_bounded(tiny_model: Any, tiny_processor: Any, reference: Path):
    clips = [reference / "video" / "clip_long.mp4", reference / "video" / "clip_short.mp4"]
    one = VideoChat(tiny_model, tiny_processor).watch(clips[0]).encoded().bytes
    chat = VideoChat(tiny_model, tiny_processor, cache_bytes=int(one * 1.5))
    for clip in clips * 2:
        chat.watch(clip).ask("Who?", 4)
        assert chat.cache.stats().bytes <= chat.cache.max_bytes
    assert chat.cache.stats().evictions >= 2
    assert chat.cache.stats().hits == 0
    video = chat.watch(clips[0])
    for number in range(8):  # what conversations leave behind counts, and is bounded as well
        video.ask(f"And what is number {number}?", 20)
    assert len(video.encoded().tails) <= 4
    assert video.encoded().bytes >= one


def test_other_weights_are_another_model(load_tiny: Callable[..., Any], tiny_processor: Any, clip: Path, plain: Callable[..., list[int]]):
    model = load_tiny("tiny56_base", adapter="tiny56_lora_r8", lora_alpha=64, fresh=True)
    chat = VideoChat(model, tiny_processor)
    video = chat.watch(clip)
    adapted = video.ask("Who?", 8).token_ids
    with model.disable_adapter():
        base = video.ask("Who?", 8).token_ids
        assert base == plain(video, "Who?") == chat.watch(clip).ask("Who?", 8).token_ids
    assert video.ask("Who?", 8).token_ids == adapted == plain(video, "Who?") != base
    misses = chat.cache.stats().misses
    video.ask("Who?", 8)
    assert chat.cache.stats().misses == misses == 2
    with torch.no_grad():
        model.get_base_model().lm_head.weight.neg_()
        model.get_base_model().model.multi_modal_projector.linear_1.weight.mul_(0.5)
    assert video.ask("Who?", 8).token_ids == plain(video, "Who?") != adapted


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"temperature": 1.0, "seed": 2}], ids=str)
def test_a_question_before_the_video_is_answered_and_said(
    chat: VideoChat, clip: Path, plain: Callable[..., list[int]], caplog: pytest.LogCaptureFixture, options: dict[str, Any]
):
    template = load_template("vicuna").model_copy(update={"mm_style": "MM_AFTER", "mm_token": "\n<image>", "mm_join": ""})
    assert template.prompt_for("Who?") == "USER: Who?\n<image> ASSISTANT:" or "Who?\n<image>" in template.prompt_for("Who?")
    chat = chat.with_template(template)
    with caplog.at_level(logging.WARNING, "pllava"):
        video = chat.watch(clip)
        questions = ["Who?", "What is it that he is doing there?"]
        expected = [plain(video, question, **options) for question in questions]
        assert [video.ask(question, 8, **options).token_ids for question in questions] == expected
        assert [answer.token_ids for answer in video.ask_all(questions, 8, **options)] == expected
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "question before the video" in caplog.records[0].message
    assert "".join(video.stream("Who?", 8)) == video.ask("Who?", 8).text
    assert chat.watch(clip).encoded() is video.encoded()  # decoded and encoded once all the same


def test_system_text_before_the_video_is_shared(chat: VideoChat, clip: Path, plain: Callable[..., list[int]]):
    template = load_template("vicuna").model_copy(update={"system": "Look at this for a long time, then say what it is."})
    video: WatchedVideo = chat.with_template(template).watch(clip)
    assert len(video.prefix) > chat.processor.num_visual_tokens + 10
    assert video.ask("Who?", 8).token_ids == plain(video, "Who?")


def test_attention_that_takes_no_mask_shares_nothing(chat: VideoChat, clip: Path, monkeypatch: pytest.MonkeyPatch):
    expected = chat.watch(clip).ask_all(["Who?", "Where is the man?"], 8)
    monkeypatch.setattr(VideoChat, "shares_prefix", property(lambda self: False))
    assert chat.watch(clip).ask_all(["Who?", "Where is the man?"], 8) == expected


def test_an_unreadable_clip_is_named(chat: VideoChat, clip: Path, tmp_path: Path):
    (tmp_path / "junk.mp4").write_bytes(b"not a video")
    with pytest.raises(PllavaError, match=r"junk\.mp4"):
        chat.watch_all([clip, tmp_path / "junk.mp4"])
    with pytest.raises(PllavaError, match=r"junk\.mp4"):
        chat.watch(tmp_path / "junk.mp4")
    assert chat.watch(clip).ask("Who?", 2).token_ids
