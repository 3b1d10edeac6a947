"""From a manifest row to a padded batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pllava.artifacts.manifest import ManifestRow
from pllava.chat.conversation import IGNORE
from pllava.chat.template import load_template
from pllava.stages.prepare.text_checks import TextChecker
from pllava.stages.train.collator import Collator
from pllava.stages.train.dataset import InstructionDataset, PieceCache, TrainSample, turn_order

QA = [{"i": "", "q": f"Question {k}?", "a": f"Answer {k}."} for k in range(6)]
IMAGE, N = 600, 16


class Constant:
    is_features = True

    def get(self, row: ManifestRow, epoch: int) -> torch.Tensor:
        return torch.full((4, 16, 64), float(epoch))


def row(qa: list[dict[str, str]]) -> ManifestRow:
    return ManifestRow("c:0", "c", "video", "a.mp4", "0" * 64, None, None, 12, 8.0, 1.5, 10, qa)


def dataset(tokenizer: Any, qa: list[dict[str, str]], max_length: int = 160, shuffle_turns: bool = True) -> InstructionDataset:
    return InstructionDataset([row(qa)], Constant(), tokenizer, load_template("tiny"), max_length, seed=1, shuffle_turns=shuffle_turns)


def test_turns_come_in_another_order_every_epoch_and_the_same_in_every_run(tiny_processor: Any) -> None:
    samples = [dataset(tiny_processor.tokenizer, QA)[0, epoch].input_ids for epoch in range(6)]
    assert len({tuple(ids) for ids in samples}) > 3
    assert len({len(ids) for ids in samples}) == 1  # the same text, in another order
    assert samples == [dataset(tiny_processor.tokenizer, QA)[0, epoch].input_ids for epoch in range(6)]
    fixed = dataset(tiny_processor.tokenizer, QA, shuffle_turns=False)
    assert fixed[0, 0].input_ids == fixed[0, 1].input_ids


def test_the_instruction_stays_first() -> None:
    qa = [{**QA[0], "i": "Look closely."}, *QA[1:]]
    for seed in "abcdef":
        turns = turn_order(qa, seed)
        assert [turn["i"] for turn in turns] == ["Look closely.", *[""] * 5]
        assert sorted(turn["q"] for turn in turns) == sorted(turn["q"] for turn in qa)


def test_a_caption_turn_keeps_the_order() -> None:
    qa = [{"i": "Describe.", "q": "", "a": "A dog."}, *QA]
    assert all(turn_order(qa, seed) == qa for seed in "abcdef")


def test_an_order_that_leaves_nothing_to_learn_is_not_used(tiny_processor: Any) -> None:
    qa = [{"i": "", "q": "Short?", "a": "Yes."}, {"i": "", "q": "word " * 200, "a": "No."}]
    data = dataset(tiny_processor.tokenizer, qa, max_length=60)
    for epoch in range(8):
        assert any(label != IGNORE for label in data[0, epoch].labels)


def test_remembered_pieces_are_what_the_tokenizer_says(tiny_processor: Any) -> None:
    cache = PieceCache(tiny_processor.tokenizer)
    for piece in ("USER:", " a question</s>", "USER:"):
        for add in (True, False):
            assert cache(piece, add_special_tokens=add)["input_ids"] == tiny_processor.tokenizer(piece, add_special_tokens=add)["input_ids"]


def test_batch_expands_placeholders_and_pads_on_the_right() -> None:
    vision = torch.zeros(4, 16, 64)
    samples = [
        TrainSample("a", [1, IMAGE, 7, 8, 2], [IGNORE, IGNORE, IGNORE, 8, 2], vision),
        TrainSample("b", [1, IMAGE, 2], [IGNORE, IGNORE, 2], vision),
    ]
    batch = Collator(IMAGE, N, pad_token_id=601)(samples)
    assert batch["input_ids"].shape == (2, 4 + N)
    assert (batch["input_ids"] == IMAGE).sum(1).tolist() == [N, N]
    assert batch["input_ids"][1, -2:].tolist() == [601, 601]
    assert batch["attention_mask"].sum(1).tolist() == [4 + N, 2 + N]
    assert batch["labels"][0, -2:].tolist() == [8, 2]
    assert (batch["labels"] != IGNORE).sum(1).tolist() == [2, 1]
    assert batch["vision_features"].shape == (2, 4, 16, 64)


def test_clips_of_different_lengths_stay_apart() -> None:
    samples = [TrainSample(str(t), [1, IMAGE, 2], [IGNORE, IGNORE, 2], torch.zeros(t, 16, 64)) for t in (4, 1)]
    assert [clip.shape[0] for clip in Collator(IMAGE, N, 601)(samples)["vision_features"]] == [4, 1]


@pytest.mark.parametrize("key", ["i", "q", "a"])
@pytest.mark.parametrize("marker", ["<image>", "USER:", "ASSISTANT:", "</s>", "<pad>"])
def test_markers_are_found_in_every_text(tiny_base_dir: Any, key: str, marker: str) -> None:
    from pllava.stages.prepare.instruction import Turn

    checker = TextChecker(str(tiny_base_dir), "tiny", 160)
    fine = {"i": "", "q": "What?", "a": "This."}
    assert checker.report((Turn(**fine),)).reasons == []
    reasons = checker.report((Turn(**fine), Turn(**{**fine, key: f"a {marker} b"}))).reasons
    assert [code for code, _ in reasons] == ["special text"]
    assert f"QA[1] {key!r} holds {marker!r}" in reasons[0][1]


def test_pieces_are_tokenised_as_the_tokenizer_does(tiny_base_dir: Any) -> None:
    checker = TextChecker(str(tiny_base_dir), "tiny", 160)
    for text in ("", " ", "USER:", "What does the man do in the kitchen, while the dog sleeps?", "ä ☃\n"):
        for begin in (True, False):
            expected = checker.tokenizer(text, add_special_tokens=begin)["input_ids"]
            assert checker._pieces(text, begin)["input_ids"] == expected
            assert checker._pieces(text, begin)["input_ids"] == expected, "remembered"
