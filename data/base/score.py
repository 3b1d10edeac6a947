"""Accuracy of the base on held-out stills by kind of question, through the public API: `python score.py` writes accuracy.json .

Open questions, greedy, right only when the whole answer is right. Albums are pictures put side by side in one prompt.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from albums import CAPTION_REQUEST as ALBUM_REQUEST
from albums import change_caption, change_questions, random_changes
from marks import CELLS
from stills import CAPTION_REQUEST, Still, album_questions, random_album, random_still, still_caption, still_questions
from tower import GRID, RENDER

import pllava
from pllava.core.files import write_json

HERE = Path(__file__).parent


def visual_tokens(model: object, processor: object, stills: list[Still], rng: random.Random) -> torch.Tensor:
    """[N, 9, D]: each picture through tower and projector, pooled to 3 x 3."""
    frames = np.stack([still.render(rng, RENDER)[0] for still in stills])
    pixels = torch.as_tensor(processor.preprocess_video(frames))  # type: ignore[attr-defined]
    seen = model.model.multi_modal_projector.linear_1(model.vision_features(pixels))  # type: ignore[attr-defined]
    seen = model.model.multi_modal_projector.act(seen).unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)  # type: ignore[attr-defined]
    pooled = torch.nn.functional.avg_pool2d(seen, 2).flatten(2).transpose(1, 2)
    return model.model.multi_modal_projector.linear_2(pooled)  # type: ignore[attr-defined]


@torch.no_grad()
def answer(model: object, tokenizer: object, features: torch.Tensor, question: str, max_new_tokens: int = 48) -> str:
    prompt = "USER:" + "<image>" * (CELLS * len(features)) + f"\n{question}</s>ASSISTANT:"
    ids = tokenizer(prompt, return_tensors="pt").input_ids  # type: ignore[operator]
    embeds = model.get_input_embeddings()(ids)  # type: ignore[attr-defined]
    embeds = embeds.masked_scatter((ids == model.config.image_token_id)[..., None], features.reshape(-1, features.shape[-1]))  # type: ignore[attr-defined]
    out = model.generate(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False)  # type: ignore[attr-defined]
    return tokenizer.decode(out[0], skip_special_tokens=True)  # type: ignore[attr-defined]


def main(prompts: int = 400) -> None:
    rng = random.Random("held out")
    model, processor = pllava.load(HERE / "tiny-llava", dtype="float32", device="cpu")
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(prompts):
        kind = ("still", "album", "changes", "changes")[index % 4]
        if kind == "still":
            shown = [random_still(rng)]
            asked = still_questions(shown[0], rng)
        elif kind == "album":
            shown = random_album(rng, rng.choice((2, 4, 6, 8)))
            asked = album_questions(shown, rng)
        else:
            changes = random_changes(rng)
            shown, asked = list(changes.pictures), change_questions(changes, rng)
        features = visual_tokens(model, processor, shown, rng)
        for question in rng.sample(asked, min(5, len(asked))):
            right[question.task].append(answer(model, processor.tokenizer, features, question.text) == question.answer)
            if question.options:
                choice, truth = question.shuffled(rng).multiple_choice()
                right[f"{question.task} (multiple choice)"].append(answer(model, processor.tokenizer, features, choice) == truth)
        if kind == "changes":
            said = answer(model, processor.tokenizer, features, ALBUM_REQUEST, 64)
            right["caption of an album, whole"].append(said == change_caption(changes))
        if kind == "still":
            right["caption, whole"].append(answer(model, processor.tokenizer, features, CAPTION_REQUEST) == still_caption(shown[0]))
    table = {kind: {"accuracy": round(float(np.mean(hits)), 4), "n": len(hits)} for kind, hits in sorted(right.items())}
    write_json(HERE / "accuracy.json", table)
    for kind, row in table.items():
        print(f"{kind:40s} {row['accuracy']:.2f} of {row['n']}")


if __name__ == "__main__":
    main()
