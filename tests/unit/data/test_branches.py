"""Independent turns: sharing a clip changes the cost, not the numbers."""

from __future__ import annotations

from typing import Any

import torch

from pllava.chat.conversation import IGNORE, encode
from pllava.chat.template import load_template
from pllava.stages.train.collator import Collator
from pllava.stages.train.dataset import TrainSample
from pllava.stages.train.tree_mask import branch_mask, branch_positions, encode_branches

QA = [
    {"i": "", "q": "What is the man doing?", "a": "He is cooking noodles."},
    {"i": "", "q": "Where is he?", "a": "In a small kitchen."},
    {"i": "", "q": "Is it night?", "a": "no"},
]


def test_branches_give_the_loss_of_each_question_alone(tiny_model: Any, tiny_processor: Any) -> None:
    template, tokenizer = load_template("vicuna"), tiny_processor.tokenizer
    image = tiny_processor.image_token_id
    collator = Collator(image, tiny_processor.num_visual_tokens, tokenizer.pad_token_id)
    torch.manual_seed(0)
    features = [torch.randn(4, 16, 64) for _ in range(2)]

    def total(samples: list[TrainSample]) -> torch.Tensor:
        batch = collator(samples)
        batch["attention_mask"] = batch["attention_mask"] if "position_ids" in batch else None
        with torch.no_grad():
            return tiny_model(**batch, num_items_in_batch=1, logits_to_keep=1).loss

    shared = [encode_branches(qa, tokenizer, template, 200, image) for qa in (QA, QA[:2])]
    together = total([TrainSample(str(n), b.input_ids, b.labels, features[n], b.turn) for n, b in enumerate(shared)])
    alone = torch.zeros(())
    for n, qa in enumerate((QA, QA[:2])):
        for question in qa:
            text = encode([question], tokenizer, template, 200)
            alone += total([TrainSample("alone", text.input_ids, text.labels, features[n])])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-5)


def test_a_branch_sees_the_prefix_and_itself() -> None:
    turn = torch.tensor([[0, 0, 1, 1, 2, -1]])
    assert branch_positions(turn)[0, :5].tolist() == [0, 1, 2, 3, 2]
    seen = branch_mask(turn)[0, 0]
    assert seen[3].tolist() == [True, True, True, True, False, False]
    assert seen[4].tolist() == [True, True, False, False, True, False]
    assert seen.any(1).all()  # padding sees something, or attention would be no number


def test_questions_that_do_not_fit_are_left_out(tiny_processor: Any) -> None:
    tokenizer, image = tiny_processor.tokenizer, tiny_processor.image_token_id
    whole = encode_branches(QA, tokenizer, load_template("vicuna"), 500, image)
    short = encode_branches(QA, tokenizer, load_template("vicuna"), len(whole.input_ids) - 1, image)
    assert max(whole.turn) == 3
    assert max(short.turn) == 2
    assert short.input_ids == whole.input_ids[: len(short.input_ids)]
    assert any(label != IGNORE for label in short.labels)


def test_a_question_that_leaves_no_answer_is_left_out_wherever_it_comes(tiny_processor: Any) -> None:
    """Every epoch has another order: the long question first must not leave a clip, or a whole step, without anything to learn."""
    tokenizer, image = tiny_processor.tokenizer, tiny_processor.image_token_id
    long = {"i": "", "q": "Why is it so? " * 100, "a": "It is."}
    first = encode_branches([long, *QA], tokenizer, load_template("vicuna"), 200, image)
    last = encode_branches([*QA, long], tokenizer, load_template("vicuna"), 200, image)
    assert first == last
    assert max(first.turn) == 3
