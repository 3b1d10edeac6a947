"""What is known about an answer: the line below it, the mark of a stopped one, links to times, and the chat as a file."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

from pllava.apps.demo.handlers import Clip, Visits, asked, pairs, stopped, text_of, turns
from pllava.apps.demo.record import Record, as_json, as_markdown, record_of

RECORD = Record("pllava version 3, LoRA alpha 4", 3, {"num_beams": 1, "system": "Be kind."}, [0.0, 2.5], 10.0, "2026-01-02T03:04:05+00:00")


def conversation(answers, question="Which way?", history=(), cost=True):
    """The states of a conversation in which the model says `answers`, each longer than the one before."""

    def stream(path, asked_question, earlier, settings, note):
        record = replace(RECORD)
        note(record)
        yield from answers
        if cost:
            record.tokens, record.seconds = 12, 1.44

    visits = Visits(SimpleNamespace(stream=stream), None)
    visits.asks("anna", asked(question, list(history)))
    return list(visits.reply("anna", Clip("a.mp4", "", None), None)), visits


def line(message):
    return re.sub("<[^>]*>|\u2063|\u200b", "", message["content"].rpartition("\n")[2])


def test_an_answer_names_version_tokens_and_time_when_it_is_whole():
    states, visits = conversation(["left", "left side"])
    assert line(states[1][-1]) == "— pllava version 3, LoRA alpha 4"
    assert line(states[-1][-1]) == "— pllava version 3, LoRA alpha 4 · 12 tokens · 1.4 s"
    assert text_of(states[-1][-1]) == "left side"
    assert not visits.busy("anna")


def test_a_stopped_answer_is_marked_and_a_whole_one_is_not():
    states, _ = conversation(["left", "left side"])
    assert stopped(states[-1]) == states[-1]
    cut = stopped(states[1])
    assert line(cut[-1]).endswith("LoRA alpha 4 · stopped")
    assert stopped(cut) == cut
    assert pairs(cut) == [("Which way?", "left")]
    assert line(asked("And now?", states[1])[1]).endswith("· stopped")
    assert text_of(stopped(states[0], "Stopped.")[-1]).endswith("Stopped.")
    assert stopped([], "Stopped.") == []


def test_times_in_an_answer_are_links_and_unchanged_for_the_model():
    words = "It falls at 3.2 s, stands up at 0:04 and lies for 99 seconds. 5 sheep; a 2 section <b>1 s</b>"
    states, _ = conversation([words])
    content = states[-1][-1]["content"]
    assert re.findall(r'href="#t=([\d.]+)">([^<]+)<', content) == [("3.200", "3.2 s"), ("4.000", "0:04"), ("1.000", "1 s")]
    assert text_of(states[-1][-1]) == words
    assert pairs(states[-1]) == [("Which way?", words)]


def test_a_chat_is_saved_with_version_settings_and_times():
    first, _ = conversation(["left"])
    second, _ = conversation(["*up*\n# <b>right</b>"], "And `now`?", first[-1])
    history = [*second[-1], {"role": "user", "content": "unanswered?"}]
    saved = json.loads(as_json("a.mp4", turns(history)))
    assert [(turn["question"], turn["answer"]) for turn in saved["turns"]] == [
        ("Which way?", "left"),
        ("And `now`?", "*up*\n# <b>right</b>"),
        ("unanswered?", ""),
    ]
    turn = saved["turns"][0]
    assert (saved["video"], turn["version"], turn["frames"], turn["tokens"], turn["seconds"]) == ("a.mp4", 3, [0.0, 2.5], 12, 1.44)
    assert turn["settings"]["system"] == "Be kind."
    text = as_markdown("a_b.mp4", turns(history))
    assert text.startswith("# PLLaVA: a\\_b.mp4\n")
    assert "frames at 0.00, 2.50 s" in text
    assert "12 tokens · 1.4 s" in text
    assert "\\*up\\*" in text
    assert "<b>" not in text


def test_a_record_that_a_client_made_up_is_none():
    for log in ("{", "[]", '{"model": 1}', "7"):
        assert record_of({"metadata": {"log": log}}) is None
    assert record_of({"metadata": None}) is None


def test_work_of_a_visitor_ends_with_the_answer_that_began_last():
    visits = Visits(SimpleNamespace(stream=lambda *_: iter(["a"])), None)
    visits.asks("anna", asked("a", []))
    first = visits.reply("anna", Clip("a.mp4", "", None), None)
    next(first)
    visits.asks("anna", asked("b", []))
    assert len(list(first)) == 0
    assert visits.busy("anna")
    visits.ends("anna")
    assert not visits.busy("anna")
    assert list(visits.reply("anna", Clip("a.mp4", "", None), None)) == []
