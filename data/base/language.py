"""The base while it learns: Llama and projector on the frozen tower's features, with heads that read marks off its visual tokens.

losses, right = base.answers(batch, features, marks)      what questions teach
loss, right = base.look(opening, features, marks)         what every visual token teaches (marks.py); the heads are dropped afterwards
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from marks import CELLS, MARKS
from prompts import IGNORE, Batch
from torch import Tensor, nn
from tower import GRID, tower_config
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

LAYERS = 8
READ_AT, CHOOSE_AT = 4, 7  # the heads read after these layers, so that later ones can use what is there
WIDTH = 192


def language_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        initializer_range=0.06,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
    )


class Base(nn.Module):
    def __init__(self, vocab_size: int, image_id: int) -> None:
        super().__init__()
        # a config each: one handed to two models loses its attention choice, and with it the causal mask
        self.language_model = LlamaForCausalLM._from_config(language_config(vocab_size), attn_implementation="sdpa")
        self.projector = LlavaMultiModalProjector(
            LlavaConfig(
                vision_config=tower_config(),
                text_config=language_config(vocab_size),
                vision_feature_layer=-2,
                vision_feature_select_strategy="default",
            )
        )
        self.heads = nn.ModuleDict({name.replace(" ", "_"): nn.Linear(WIDTH, classes) for name, classes in MARKS.items()})
        self.heads["option"] = nn.Linear(WIDTH, 2)  # at the end of each option: is it the right one?
        self.image_id = image_id
        self.after: dict[int, Tensor] = {}
        for depth in (READ_AT, CHOOSE_AT):
            self.language_model.model.layers[depth - 1].register_forward_hook(partial(self._keep, depth))

    def _keep(self, depth: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self.after[depth] = output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def check_causal(self) -> None:
        embeds = torch.randn(1, 8, WIDTH)
        changed = embeds.clone()
        changed[:, 5:] += 1
        before, after = (self.language_model.model(inputs_embeds=x, use_cache=False).last_hidden_state[:, :5] for x in (embeds, changed))
        if not torch.equal(before, after):
            raise SystemExit("the language model sees the future: no causal mask")

    def project(self, features: Tensor) -> Tensor:
        """Tower features [N, 36, 128] -> visual tokens [N, 9, D], pooled to 3 x 3."""
        seen = self.projector(features.float()).unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
        return nn.functional.avg_pool2d(seen.float(), 2).flatten(2).transpose(1, 2)

    def look(self, opening: Tensor, features: Tensor, marks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Albums of one size and nothing else: opening [P] (ids before the pictures), features [B, T, 36, 128], marks [B, T, 9, M]."""
        albums, size = features.shape[:2]
        pictures = self.project(features.flatten(0, 1)).reshape(albums, size * CELLS, WIDTH)
        start = self.language_model.model.embed_tokens(opening).expand(albums, -1, -1)
        model = self.language_model.model
        layers, model.config.num_hidden_layers = model.config.num_hidden_layers, READ_AT
        model(inputs_embeds=torch.cat([start, pictures.to(start.dtype)], 1), use_cache=False)
        model.config.num_hidden_layers = layers
        return self.read(self.after[READ_AT][:, len(opening) :].reshape(-1, WIDTH), marks.flatten(0, 2))

    def read(self, hidden: Tensor, marks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Visual tokens [N, D] and their marks [N, M]: mean loss over the heads, and share right by mark."""
        hidden = nn.functional.rms_norm(hidden.float(), (WIDTH,))
        losses, right = [], {}
        for column, name in enumerate(MARKS):
            target = marks[:, column]
            known = target >= 0
            if not known.any():
                continue
            logits = self.heads[name.replace(" ", "_")](hidden[known])
            losses.append(nn.functional.cross_entropy(logits.float(), target[known]))
            right[name] = (logits.argmax(-1) == target[known]).float().mean().detach()
        return torch.stack(losses).mean(), right

    def answers(self, batch: Batch, features: Tensor | None, marks: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the answers, of choosing among options, and of the marks [N, 9, M] of the same pictures if given; shares right."""
        embeds = self.language_model.model.embed_tokens(batch.ids)
        pictures = batch.ids == self.image_id
        if features is not None:
            embeds = embeds.masked_scatter(pictures[..., None], self.project(features).to(embeds.dtype).reshape(-1, WIDTH))
        hidden = self.language_model.model(
            inputs_embeds=embeds, position_ids=batch.position, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state[:, :-1]
        keep = batch.labels[:, 1:] != IGNORE
        logits, target = self.language_model.lm_head(hidden[keep]).float(), batch.labels[:, 1:][keep]
        losses, right = {"answer": nn.functional.cross_entropy(logits, target)}, {"answer": logits.argmax(-1) == target}
        ends = batch.options != IGNORE
        if ends.any():
            chosen = self.heads["option"](nn.functional.rms_norm(self.after[CHOOSE_AT][ends].float(), (WIDTH,))).float()
            losses["option"] = nn.functional.cross_entropy(chosen, batch.options[ends])
            right["option"] = (chosen.argmax(-1) == batch.options[ends])[batch.options[ends] == 1]
        if marks is not None:
            losses["marks"] = self.read(self.after[READ_AT][pictures], marks.flatten(0, 1))[0]
        return losses, right
