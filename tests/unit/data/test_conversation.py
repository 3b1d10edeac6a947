"""Training text, ids, labels and masks are those recorded from the published training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pllava.chat import load_template
from pllava.chat.conversation import IGNORE, encode, expand_placeholders, split_at_roles, training_text
from pllava.core.errors import PllavaError

MEDIA = {"video": "<Video></Video>", "image": "<Image></Image>"}


@pytest.fixture(scope="module")
def tokenizer(tiny_base_dir: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(tiny_base_dir)


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "train_text.json").read_text())


def test_recorded_conversations(recorded: dict[str, Any], tokenizer: Any):
    length = recorded["args"]["max_txt_l"]
    for template, cases in (("vicuna", recorded["samples"]), ("yi", recorded["yi_roles"])):
        for case in cases:
            # "keep": one case has role strings in the user's text, which we refuse by default
            kwargs = {"mm_alone": case["mm_alone"], "second_message": case.get("second_msg") or "", "markers": "keep"}
            assert training_text(case["qa"], template, media_token=MEDIA[case["media"]], **kwargs) == case["raw_text"]
            encoded = encode(case["qa"], tokenizer, template, length, pad_to_max_length=True, **kwargs)
            assert [list(row) for row in encoded] == [case["input_ids"], case["labels"], case["attention_mask"]], case["qa"]
            short = encode(case["qa"], tokenizer, template, length, **kwargs)
            assert short.input_ids == encoded.input_ids[: sum(encoded.attention_mask)]
            assert all(short.attention_mask)


def test_recorded_pieces(recorded: dict[str, Any]):
    for case in recorded["split_segments"]:
        assert split_at_roles(case["text"], case["separators"]) == case["segments"]


def test_only_answers_are_supervised(tokenizer: Any):
    turns = [{"i": "Look.", "q": "Who?", "a": "A man."}, {"q": "Where?", "a": "In a house."}]
    encoded = encode(turns, tokenizer, "vicuna", 200)
    learnt = [token for token in encoded.labels if token != IGNORE]
    assert "".join(tokenizer.decode(learnt).split()) == "Aman.</s>Inahouse.</s>"
    assert encoded.input_ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1


def test_a_prompt_of_the_tiny_template_is_the_beginning_of_its_training_text():
    tiny, choice = load_template("tiny"), load_template("tiny_mvbench")
    assert training_text([{"q": "Who?", "a": "A man."}], tiny) == tiny.prompt_for("Who?") + "A man.</s>"
    assert training_text([{"q": "Who?", "a": "Answer: (A) me"}], choice).startswith(choice.prompt_for("Who?"))


@pytest.mark.parametrize("marker", ["USER:", "ASSISTANT:", "<image>", "</s>", "<s>"])
@pytest.mark.parametrize("key", ["i", "q", "a"])
def test_markers_are_refused_and_named(tokenizer: Any, marker: str, key: str):
    turn = {"i": "", "q": "Who?", "a": "Me."} | {key: f"say {marker} now"}
    with pytest.raises(PllavaError, match=rf"QA\[0\] '{key}' holds"):
        encode([turn], tokenizer, "vicuna", 100)


def test_expansion():
    assert expand_placeholders([1, 9, 5, 6], [-100, -100, 5, 6], 3, 9) == ([1, 9, 9, 9, 5, 6], [-100] * 4 + [5, 6])
