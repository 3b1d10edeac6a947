"""Packing and recomputing change what a step costs, not what it computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pllava.chat.conversation import encode
from pllava.chat.template import load_template
from pllava.core.errors import PllavaError
from pllava.core.params import Lora
from pllava.model.activation_checkpointing import recompute
from pllava.model.adapter import add_lora
from pllava.model.attention import use_packed_attention
from pllava.stages.train.collator import Collator
from pllava.stages.train.dataset import TrainSample
from pllava.stages.train.tree_mask import encode_branches


@pytest.fixture
def fresh_tiny_model(load_tiny: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: load_tiny("tiny56_base", fresh=True)


WORDS = ["red", "blue", "circle", "moves", "left", "right", "the", "a", "then", "stops", "kitchen", "man", "cooks", "two", "three"]


def text(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def samples(processor: Any, seed: int, turns: str) -> list[TrainSample]:
    """Videos, a short video and stills, of unequal lengths; the first sample has one turn."""
    rng = random.Random(seed)
    template, tokenizer = load_template("vicuna"), processor.tokenizer
    torch.manual_seed(seed)
    made = []
    for number, frames in enumerate((4, 1, 4, 2, 1)):
        qa = [{"i": "", "q": text(rng, 12), "a": text(rng, 9)} for _ in range(1 if number == 0 else rng.randint(1, 4))]
        features = torch.randn(frames, 16, 64)
        if turns == "independent":
            found = encode_branches(qa, tokenizer, template, 200, processor.image_token_id)
            made.append(TrainSample(str(number), found.input_ids, found.labels, features, found.turn))
        else:
            encoded = encode(qa, tokenizer, template, 200)
            made.append(TrainSample(str(number), encoded.input_ids, encoded.labels, features))
    return made


def with_lora(model: Any) -> Any:
    peft = add_lora(model, Lora(r=4, alpha=8, dropout=0.0), 3).train()
    torch.manual_seed(9)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:  # as after some steps: B = 0 would give A no gradient
            parameter.data.normal_(0, 0.05)
    return peft


def loss_and_gradients(peft: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    if "segments" not in batch and "position_ids" not in batch:
        batch = {**batch, "attention_mask": None}
    peft.zero_grad(set_to_none=True)
    tokens = (batch["labels"][:, 1:] != -100).sum()
    loss = peft(**batch, num_items_in_batch=tokens, logits_to_keep=1, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in peft.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("turns", ["conversation", "independent"])
@pytest.mark.parametrize("seed", range(4))
def test_a_packed_row_is_the_samples_apart(fresh_tiny_model: Callable[[], Any], tiny_processor: Any, seed: int, turns: str) -> None:
    made = samples(tiny_processor, seed, turns)
    make = {packed: Collator(tiny_processor.image_token_id, tiny_processor.num_visual_tokens, 0, packed=packed) for packed in (True, False)}
    peft = with_lora(fresh_tiny_model())
    loss, gradients = loss_and_gradients(peft, make[False](made))
    alone = [make[False]([sample]) for sample in made]
    tokens = [(batch["labels"] != -100).sum().item() for batch in alone]
    apart = sum(loss_and_gradients(peft, batch)[0] * count for batch, count in zip(alone, tokens, strict=True)) / sum(tokens)

    use_packed_attention(peft.get_base_model())
    packed = make[True](made)
    assert packed["input_ids"].shape[0] == 1
    assert "attention_mask" not in packed
    packed_loss, packed_gradients = loss_and_gradients(peft, packed)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert packed_loss == pytest.approx(apart, abs=1e-5)
    assert packed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_neighbours_in_a_row_do_not_matter(fresh_tiny_model: Callable[[], Any], tiny_processor: Any) -> None:
    """What stands before a sample changes nothing it computes: not its text, not its frames."""
    made, others = samples(tiny_processor, 1, "conversation"), samples(tiny_processor, 2, "conversation")
    collator = Collator(tiny_processor.image_token_id, tiny_processor.num_visual_tokens, 0, packed=True)
    model = fresh_tiny_model()
    use_packed_attention(model)

    def last(front: TrainSample) -> torch.Tensor:
        batch = collator([front, made[2]])
        labels, size = batch.pop("labels"), batch["segments"][1].length
        with torch.no_grad():
            return model(**batch, use_cache=False).logits[0, -size:][labels[0, -size:] != -100]

    assert torch.equal(last(made[0]), last(others[0]))


@pytest.mark.parametrize("what", ["mlp", "blocks"])
def test_recomputing_gives_the_same_bits(fresh_tiny_model: Callable[[], Any], tiny_processor: Any, what: Any) -> None:
    batch = Collator(tiny_processor.image_token_id, tiny_processor.num_visual_tokens, 0)(samples(tiny_processor, 5, "conversation"))
    found = []
    for kept in ("none", what):
        model = fresh_tiny_model()
        recompute(model, kept)
        peft = add_lora(model, Lora(r=4, alpha=8, dropout=0.2), 3).train()
        torch.manual_seed(11)
        found.append(loss_and_gradients(peft, batch))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())


def test_recomputed_mlps_keep_less(fresh_tiny_model: Callable[[], Any], tiny_processor: Any) -> None:
    batch = Collator(tiny_processor.image_token_id, tiny_processor.num_visual_tokens, 0)(samples(tiny_processor, 5, "conversation"))
    kept = {}
    for what in ("none", "mlp", "blocks"):
        model = fresh_tiny_model()
        recompute(model, what)  # type: ignore[arg-type]
        peft = add_lora(model, Lora(r=4, alpha=8, dropout=0.0), 3).train()
        seen: dict[int, int] = {}

        def keep(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in peft.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = peft(**{**batch, "attention_mask": None}, num_items_in_batch=1, logits_to_keep=1, use_cache=False).loss
        kept[what] = sum(size for place, size in seen.items() if place not in weights)
        del loss
    assert kept["blocks"] < kept["mlp"] < kept["none"]


def test_eager_attention_cannot_pack(fresh_tiny_model: Callable[[], Any]) -> None:
    model = fresh_tiny_model()
    model.model.language_model.config._attn_implementation = "eager"
    with pytest.raises(PllavaError, match=r"train\.packing needs"):
        use_packed_attention(model)
