"""What a stream hands over is final, whatever comes next; and who leaves it gets the memory back."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pllava.chat import VideoChat, WatchedVideo
from pllava.chat.generation import Generation, StopStrings, repeats
from pllava.chat.stream import Stream, without_beginning_of
from pllava.chat.template import load_template
from pllava.model.shared_prefix import BufferedLayer, Cancelled


def pieces_of(steps: list[str], stop: tuple[str, ...] = (), template: str = "vicuna") -> tuple[list[str], str]:
    """Pieces of a model that would write `steps`, one a token; and the whole text."""
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda number: steps[number] or None)  # None: an id that the tokenizer lacks
    processor = SimpleNamespace(tokenizer=tokenizer, decode_new=lambda before, ids: joined(steps, ids))

    def answer(videos: Any, prompts: Any, settings: Generation, streamer: Stream) -> list[Any]:
        streamer.put(torch.tensor([[0]]))
        for number in range(len(steps)):
            streamer.put(torch.tensor([number]))
        text = joined(steps, range(len(steps)))
        for end in stop:
            text = text.split(end)[0]
        return [SimpleNamespace(text=chat.template.trim_reply(text))]

    chat: Any = SimpleNamespace(
        processor=processor, template=load_template(template), answer=answer, after_video=lambda row: row, until_end=lambda ids: list(ids)
    )
    stream = Stream(chat, lambda: None, "prompt", Generation(stop=stop))  # type: ignore[arg-type, return-value]
    pieces = list(stream.pieces())
    assert stream.answer is not None
    return pieces, stream.answer.text


def joined(steps: list[str], ids: Any) -> str:
    return b"".join(bytes.fromhex(steps[i][3:5]) if steps[i].startswith("<0x") else steps[i].encode() for i in ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("steps", "stop"),
    [
        ([" A", " cat", " sits", "."], ()),
        ([" 猫", "<0xE7>", "<0x8C>", "<0xAB>", " ok"], ()),  # a character in three tokens
        (["<0xE7>", "<0x8C>"], ()),  # which never ends
        ([" yes", "<", "/s", ">"], ()),  # the closing separator, spelt
        ([" one", " two", "\n", "\n", " three"], ("\n\n",)),
        ([" a", "bc", "d e"], ("bcd",)),  # a stop string that begins within a token and ends within another
        ([" a", "b", "x c"], ("bc",)),  # which only looks like one
        ([" a", "b c"], (" ab",)),  # at the very beginning: nothing is said
        ([" STOP here"], ("STOP",)),
        ([" a", "", " b"], ()),
        (["  ", " late", "  "], ()),
    ],
)
def test_joined_pieces_are_the_text(steps: list[str], stop: tuple[str, ...]):
    pieces, text = pieces_of(steps, stop)
    assert "".join(pieces) == text
    assert all(piece for piece in pieces)
    assert "\ufffd" not in "".join(pieces[:-1])


def test_text_comes_as_it_is_made():
    assert pieces_of([" A", " cat", " sits"]) == (["A", " cat", " sits"], "A cat sits")
    assert pieces_of(["A", ") cat"], template="eval_mvbench")[0] == ["(A", ") cat"]


def test_what_is_held_back():
    assert without_beginning_of("one </", ["</s>"]) == "one "
    assert without_beginning_of("one </s", ["</s>", "ne </s></s>"]) == "o"
    assert without_beginning_of("one", []) == "one"


def test_a_stop_string_of_any_length_costs_no_more_than_the_text():
    decoded: list[int] = []

    def text_of(ids: list[int]) -> str:
        decoded.append(len(ids))
        return "".join(map(chr, ids))

    begin = time.monotonic()
    assert without_beginning_of("a" * 1000, ["a" * 5_000_000]) == ""
    criterion = StopStrings(("END", "b" * 20), 5, text_of)
    for end in range(100, 3000, 50):
        assert not criterion(torch.full((2, end), 97), None).any()
    text = torch.tensor([[97] * 3000 + list(map(ord, "END")), [97] * 3003])
    assert criterion(text, None).tolist() == [True, False]
    assert max(decoded) < 100, "only the last tokens are decoded at each step"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_stop_string_cuts_text_and_work(video: WatchedVideo, num_beams: int):
    whole = video.ask("Who?", 40, num_beams=num_beams)
    stop = whole.text[len(whole.text) // 2 :][:3]
    cut = video.ask("Who?", 40, num_beams=num_beams, stop=[stop, "never said"])
    if num_beams == 1:
        assert cut.text == whole.text[: whole.text.find(stop)].strip()
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
        assert len(cut.token_ids) < len(whole.token_ids)
        assert cut.finish_reason == "stop"
    assert stop not in cut.text
    assert "".join(video.stream("Who?", 40, num_beams=num_beams, stop=stop)) == cut.text
    both = video.ask_all(["Why is it there?", "Who?"], 40, num_beams=num_beams, stop=[stop, "never said"])
    assert both[1] == cut


def test_finish_reasons(video: WatchedVideo):
    assert video.ask("Who?", 3).finish_reason == "length"
    first = video.ask("Who?", 1)
    assert first.prompt_tokens == len(video.chat.tokenize(first.prompt))
    assert len(first.token_ids) == 1


def buffers() -> int:
    gc.collect()
    return sum(isinstance(thing, BufferedLayer) for thing in gc.get_objects())


def test_leaving_a_stream_frees_what_it_held(video: WatchedVideo):
    before, threads = buffers(), threading.active_count()
    pieces = video.stream("Who?", 2000, temperature=1.0, seed=1)
    next(pieces)
    assert buffers() > before
    pieces.close()
    assert threading.active_count() == threads
    assert buffers() == before  # while the iterator is still held
    with video.encoded().room() as free:
        assert free


def test_an_event_stops_the_model_in_the_middle_of_a_token(video: WatchedVideo, monkeypatch: pytest.MonkeyPatch):
    before = buffers()
    cancel = threading.Event()
    steps = []
    update = BufferedLayer.update

    def watched(self: BufferedLayer, *args: Any, **kwargs: Any) -> Any:
        steps.append(self)
        if len(steps) == 5:  # of three layers: within the second token
            cancel.set()
        return update(self, *args, **kwargs)

    monkeypatch.setattr(BufferedLayer, "update", watched)
    with pytest.raises(Cancelled):
        video.ask_all(["Who?", "Why?"], 100, cancel=cancel)
    assert len(steps) == 5
    del steps[:]
    assert buffers() == before
    with pytest.raises(Cancelled):
        list(video.stream("Who?", cancel=cancel))
    with pytest.raises(Cancelled):
        video.chat.with_template("tiny").watch(video.frames, cancel=cancel)
    assert video.ask("Who?", 4, cancel=threading.Event()) == video.ask("Who?", 4)


def test_many_threads_one_video(chat: VideoChat, clip: Path):
    """Some of them find the room behind the prefix taken and work on a copy."""
    questions = [f"What is {number}, and why?" for number in range(6)]
    expected = {question: VideoChat(chat.model, chat.processor, "vicuna").watch(clip).ask(question, 12) for question in questions}
    found: dict[str, Any] = {}

    def ask(question: str) -> None:
        video = chat.watch(clip)
        answer = "".join(video.stream(question, 12))
        found[question] = (answer, video.ask(question, 12))

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {question: (answer.text, answer) for question, answer in expected.items()}
    assert chat.cache.stats().misses == 1
    assert chat.cache.stats().hits == 5


def test_two_streams_of_one_video_take_turns(video: WatchedVideo):
    expected = [video.ask("Who?", 20).text, video.ask("Where is it?", 20).text]
    first, second = video.stream("Who?", 20), video.stream("Where is it?", 20)
    said = [next(first), next(second)]
    time.sleep(0.01)
    said = [said[0] + "".join(first), said[1] + "".join(second)]
    assert said == expected


def test_a_video_nobody_holds_is_freed(tiny_model: Any, tiny_processor: Any, clip: Path):
    chat = VideoChat(tiny_model, tiny_processor, cache_bytes=0)
    video = chat.watch(clip)
    video.ask("Who?", 2)
    watched = weakref.ref(video.encoded())
    del video
    gc.collect()
    assert watched() is None
    assert chat.cache.stats().entries == 0


BABBLE: Any = {"repetition_penalty": 0.3}  # below 1: what was said before becomes more probable


@pytest.mark.parametrize(
    ("ids", "repeated"),
    [
        ([9, *[1, 2] * 6], True),  # "The white The white ..."
        ([9, *[1, 2] * 5], False),
        ([9] + [1] * 12, True),
        ([9] + [0] * 9, False),  # the zeros of a large number
        ([*range(8)] * 4, True),
        ([7, *[1, 2, 3] * 3, 1, 2], False),
        ([*range(9)] * 6, False),  # a longer phrase may be a refrain
        ([*[1, 2] * 6, 3], False),  # it goes on
    ],
)
def test_what_a_repetition_is(ids: list[int], repeated: bool):
    assert repeats(ids) is repeated


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1, "seed": 1}])
def test_an_answer_ends_at_repetition(video: WatchedVideo, options: dict[str, Any]):
    options = options | BABBLE
    whole = video.ask("Who?", 60, **options)
    short = video.ask("Who?", 60, stop_at_repetition=True, **options)
    assert whole.finish_reason == "length"
    assert whole.stopped is None
    assert (short.finish_reason, short.stopped) == ("stop", "repetition")
    assert repeats(short.token_ids)
    assert short.token_ids == whole.token_ids[: len(short.token_ids)]
    assert not any(repeats(short.token_ids[:end]) for end in range(len(short.token_ids)))
    stream = video.streamed("Who?", 60, stop_at_repetition=True, **options)
    assert "".join(stream.pieces()) == short.text
    assert stream.answer == short
    # Other rows of the batch go on, and padding follows this one.
    assert video.ask_all(["Where is it, and why?", "Who?"], 60, stop_at_repetition=True, **options)[1] == short


def test_a_stop_string_before_a_repetition_counts(video: WatchedVideo):
    short = video.ask("Who?", 60, stop_at_repetition=True, **BABBLE)
    assert short.stopped == "repetition"
    stopped = video.ask("Who?", 60, stop_at_repetition=True, **BABBLE, stop=short.text[2:6])
    assert (stopped.finish_reason, stopped.stopped) == ("stop", None)
    assert stopped.text == short.text[: short.text.find(short.text[2:6])].strip()
