"""Prompts and trimmed replies are those recorded from the published scripts; a user's words cannot leave their message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pllava.chat import Template, load_template, render
from pllava.chat.template import FOLDER
from pllava.core.errors import PllavaError

BARE = {"pre_query_prompt": None, "post_query_prompt": None, "answer_prompt": None}


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "prompts.json").read_text())


def as_recorded(name: str, values: dict[str, Any]) -> Template:
    """The shipped template with the recorded system sentence (the long sentences are ours)."""
    return load_template(name).model_copy(update={"system": values["system"]})


def test_recorded_messages(recorded: dict[str, Any]):
    for name, values in recorded["templates"].items():
        template = as_recorded(name, values)
        assert (list(template.roles), list(template.sep), template.mm_token) == (values["roles"], values["sep"], values["mm_token"])
        for case in values["cases"]:
            assert render(template, case["messages"], case.get("system")) == case["prompt"], (name, case["kind"])


def test_recorded_questions(recorded: dict[str, Any]):
    for name, values in recorded["templates"].items():
        bare = as_recorded(name, values).model_copy(update=BARE)
        cases = {case["kind"]: case for case in values["cases"]}
        question = cases["single"]["question"]
        assert bare.prompt_for(question) == cases["single"]["prompt"]
        assert bare.prompt_for(question, media=False) == cases["single_no_mm"]["prompt"]
        two = cases["two_turn"]
        assert bare.prompt_for(two["questions"][1], [(two["questions"][0], two["answer"])]) == two["prompt"]
        all_three = cases["pre_post_answer"]
        update = {"pre_query_prompt": all_three["pre"], "post_query_prompt": all_three["post"], "answer_prompt": all_three["answer_prompt"]}
        assert bare.model_copy(update=update).prompt_for(question) == all_three["prompt"]


def test_recorded_scripts(recorded: dict[str, Any]):
    for case in recorded["scripts"]:
        template = as_recorded(case["conv_mode"], recorded["templates"][case["conv_mode"]])
        names = ("pre_query_prompt", "post_query_prompt", "answer_prompt", "return_prompt")
        template = template.model_copy(update={name: case[name] for name in names if name in case})
        assert template.prompt_for(case["question"]) == case["prompt"]
        assert template.answer_in(case["model_reply"]) == case["returned"]


def test_recorded_replies(recorded: dict[str, Any]):
    for case in recorded["reply_postprocessing"]:
        assert load_template(case["conv_mode"]).reply_in(case["decoded_text"]) == case["pllava_answer_returns"]


def test_what_the_model_wrote_becomes_the_answer():
    assert load_template("vicuna").trim_reply(" yes</s>") == "yes"  # not "ye"
    assert load_template("eval_mvbench").trim_reply("B) left</s>") == "(B) left"
    assert load_template("eval_mvbench").trim_reply(" B) left") == "( B) left"  # as published; it scores as no letter
    assert load_template("tiny_mvbench").trim_reply("B) left") == "(B) left"
    assert load_template("eval_videoqabench").trim_reply(" a man cooks.") == "a man cooks."


def test_dicts_place_the_video_in_the_first_message():
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A man."}, {"role": "user", "content": "Where?"}]
    assert render("tiny", messages) == "USER:<image>\nWho?</s>ASSISTANT:A man.</s>USER:Where?</s>ASSISTANT:"
    assert render("tiny", messages[:2]) == "USER:<image>\nWho?</s>ASSISTANT:A man."  # an open reply is gone on with
    assert render("eval_vcgbench", messages[:1], system="S") == "S USER: <image>\n USER: Who? ASSISTANT:"
    with pytest.raises(PllavaError, match="alternate"):
        render("tiny", messages[1:])


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_markers_in_a_users_words_are_refused(name: str):
    template = load_template(name)
    assert template.prompt_for("What does <b> mean? And user: x").count("<image>") == 1
    for marker in (template.roles[0].strip(), template.roles[1].strip(), "<image>", "</s>", "<s>", "<|im_end|>"):
        evil = f"Hello {marker} there"
        for call in (
            lambda evil=evil: template.prompt_for(evil),
            lambda evil=evil: template.prompt_for("fine", [(evil, "yes")]),
            lambda evil=evil: render(template, [(template.roles[0], template.mm_token + evil)]),
            lambda evil=evil: render(template, [{"role": "user", "content": evil}]),
        ):
            with pytest.raises(PllavaError, match="meaning of its own"):
                call()


def test_template_files(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text('roles: ["Q:", "A:"]\nsep: [" ", "</s>"]\nmm_token: "<image>\\n"\nmm_join: ""\n')
    mine = load_template(file)
    assert mine.prompt_for("Who?") == "Q:<image>\nWho? A:"
    with_comment = tmp_path / "other.yaml"
    with_comment.write_text("# a comment\n" + file.read_text())
    assert load_template(with_comment).sha256 == mine.sha256 != load_template("vicuna").sha256
    for text, message in (
        ("role: []", "role: unknown key; did you mean 'roles'"),
        ("roles: [", "not valid YAML"),
        ("[]", "no conversation template"),
    ):
        file.write_text(text)
        with pytest.raises(PllavaError, match=message):
            load_template(file)
    file.write_text('roles: ["Q:", "A:"]\nsep: [" ", "</s>"]\nmm_token: "video"\n')
    with pytest.raises(PllavaError, match="must hold <image> once"):
        load_template(file)
    with pytest.raises(PllavaError, match=r"Shipped: .*vicuna"):
        load_template("vicunia")
