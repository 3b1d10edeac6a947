"""Another version takes the place of the one that serves: each answer and caption names the one that gave it, with its strength."""

import json
import threading
from pathlib import Path

import pytest
from serving import write_adapter

from pllava.apps.demo import switch
from pllava.apps.demo.captions import caption_clip
from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.apps.demo.handlers import Clip, Visits, asked, pairs, text_of
from pllava.apps.web.uploads import Uploads
from pllava.core.params import load_params
from pllava.registry.default_model import choose

RECIPE = Path(__file__).parents[3] / "recipes/tiny.yaml"
BRIEF = Settings(max_new_tokens=12)


@pytest.fixture
def clip(corpus):
    return str(sorted((corpus / "MVBench/video").rglob("*.mp4"))[0])


@pytest.fixture
def engine(tiny_base_dir, tmp_path):
    """Serves the folder `one`; `two` lies beside it, trained at another strength."""
    for number, (name, alpha) in enumerate({"one": 4, "two": 16}.items()):
        write_adapter(tiny_base_dir, tmp_path / name, number, {"base": str(tiny_base_dir), "template": "vicuna"}, alpha)
    source = choose(load_params(RECIPE), str(tmp_path / "one"))
    engine = ChatEngine(source.load())
    engine.source = source
    return engine


def put_in(engine, tmp_path, name, clip):
    return switch._switch(engine, {"model": str(tmp_path / name), "params": str(RECIPE), "clip": clip, "question": "Which way?"})


def said(message):
    """The line about an answer, without its cost."""
    return message["content"].replace("\u200b", "").partition("\u2063")[2].removesuffix("</small>").partition(" · ")[0]


def test_an_answer_in_progress_is_credited_to_who_gives_it(engine, clip, tmp_path):
    visits = Visits(engine, None)
    visits.asks("anna", asked("Which way?", []))
    answer = visits.reply("anna", Clip(clip, "", "video/mp4"), BRIEF)
    next(answer)
    assert said(next(answer)[-1]) == f"— {tmp_path}/one, LoRA alpha 4"
    switching = threading.Thread(target=put_in, args=(engine, tmp_path, "two", clip))
    switching.start()
    switching.join(3)
    conversation = list(answer)[-1]
    assert said(conversation[-1]) == f"— {tmp_path}/one, LoRA alpha 4"
    switching.join(60)
    visits.asks("anna", asked("And now?", conversation))
    conversation = list(visits.reply("anna", Clip(clip, "", "video/mp4"), BRIEF))[-1]
    assert [said(message) for message in conversation[1::2]] == [f"— {tmp_path}/one, LoRA alpha 4", f"— {tmp_path}/two, LoRA alpha 16"]
    assert [answer for _, answer in pairs(conversation)] == [text_of(message) for message in conversation[1::2]]
    assert not any("LoRA" in text_of(message) for message in conversation)


def test_the_strength_that_was_chosen_is_the_one_that_is_named(engine):
    assert engine.credit(Settings(lora_alpha=2.5)).endswith("/one, LoRA alpha 2.5")


def test_captions_name_who_gave_them_in_the_page_and_in_the_files(engine, clip, tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    uploads.open()
    captions = caption_clip(engine, uploads, "anna", clip, BRIEF)
    next(captions), next(captions)
    switching = threading.Thread(target=put_in, args=(engine, tmp_path, "two", clip))
    switching.start()
    switching.join(3)
    last = list(captions)[-1]
    switching.join(60)
    assert f"By {tmp_path}/one, LoRA alpha 4." in last.listed
    texts = {file.rsplit(".", 1)[1]: Path(file).read_text() for file in last.files}
    assert f"captions by {tmp_path}/one, LoRA alpha 4" in texts["vtt"]
    assert json.loads(texts["json"])["notes"][-1] == f"captions by {tmp_path}/one, LoRA alpha 4"


def test_alias_of_the_time_is_no_part_of_the_credit(engine):
    from dataclasses import replace

    engine.source = replace(engine.source, name="pllava version 3 (champion)")
    assert engine.credit(BRIEF) == "pllava version 3, LoRA alpha 4"
