"""Two versions answer one question beside each other; the vote is kept, and the second model is gone afterwards."""

import gc
import weakref
from pathlib import Path

import pytest
from serving import write_adapter

from pllava.apps.demo import duel
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.chat import VideoChat
from pllava.core.errors import PllavaError
from pllava.core.ledger import Ledger
from pllava.core.params import load_params
from pllava.registry.default_model import choose

RECIPE = Path(__file__).parents[3] / "recipes/tiny.yaml"
BRIEF = Settings(max_new_tokens=8)


@pytest.fixture
def clip(corpus):
    return str(sorted((corpus / "MVBench/video").rglob("*.mp4"))[0])


@pytest.fixture
def sources(tiny_base_dir, tmp_path):
    for number, name in enumerate(("one", "two")):
        write_adapter(tiny_base_dir, tmp_path / name, number, {"base": str(tiny_base_dir), "template": "vicuna"}, 4 * (number + 1))
    return [choose(load_params(RECIPE), str(tmp_path / name)) for name in ("one", "two")]


def serving(source):
    engine = ChatEngine(source.load())
    engine.source = source
    return engine


def test_each_version_answers_as_it_does_alone_and_the_vote_is_kept(sources, clip, tmp_path):
    engine, alone = serving(sources[0]), [serving(source).ask(clip, "Which way?", BRIEF) for source in sources]
    states = list(duel.ask_both(engine, sources[1], clip, "Which way?", Settings(max_new_tokens=8, lora_alpha=1.0)))
    assert [len(state.answers) for state in states] == [1, 2]
    last = states[-1]
    assert list(last.answers) == alone
    assert last.versions == (f"{tmp_path}/one, LoRA alpha 4", f"{tmp_path}/two, LoRA alpha 8")
    for choice in ("second", "same"):
        duel.vote(last, choice, tmp_path / ".state/votes.ledger")
    with Ledger(tmp_path / ".state/votes.ledger") as votes:
        rows = [row for _, row in votes.items()]
    assert [row["vote"] for row in rows] == ["second", "same"]
    assert rows[0]["answers"] == alone
    assert rows[0]["question"] == "Which way?"
    assert rows[0]["time"].endswith("+00:00")


def test_the_second_model_is_gone_afterwards(sources, clip, monkeypatch):
    models = []
    original = ChatEngine.__init__

    def remember(self, chat: VideoChat, *arguments):
        models.append(weakref.ref(chat.model))
        original(self, chat, *arguments)

    engine = serving(sources[0])
    monkeypatch.setattr(ChatEngine, "__init__", remember)
    assert list(duel.ask_both(engine, sources[1], clip, "Which way?", BRIEF))[-1].whole
    gc.collect()
    assert [model() for model in models] == [None]


def test_without_memory_for_a_second_model_nothing_is_loaded(sources, clip, monkeypatch):
    monkeypatch.setattr(duel, "ROOM", 1e12)
    with pytest.raises(PllavaError, match=r"GiB of memory, .* are free"):
        next(duel.ask_both(serving(sources[0]), sources[1], clip, "Which way?", BRIEF))


def test_words_of_a_model_are_no_markup():
    shown = duel.Duel("a.mp4", "<b>?", ("<i>", "two"), ("<img src=x>",)).html()
    assert "<img" not in shown
    assert "<i>" not in shown
    assert "<b>?" not in shown
