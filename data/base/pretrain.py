"""Pre-train projector and language model on stills, albums and stories: `python pretrain.py` writes build/language.safetensors .

The tower stays frozen. Several questions about one picture in one sequence: far more supervision for the same visual tokens.
Up to four kinds of batch take turns inside each step; the loss counts answers only.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from albums import Album, change_conversation, random_changes
from muon import Muon
from safetensors.torch import load_file, save_file
from stills import (
    CAPTION_REQUEST,
    Still,
    album_questions,
    conversation,
    echo,
    random_album,
    random_still,
    still_caption,
    still_questions,
    story,
)
from torch import nn
from tower import GRID, RENDER, pixels, tower_config
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

HERE = Path(__file__).parent
IGNORE, POOLED = -100, 9


LAYERS = 7


def language_config(vocab_size: int, layers: int = LAYERS) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=layers,
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


class Gallery:
    """A growing pool of rendered stills with the frozen tower's features kept in memory."""

    def __init__(self, tower: CLIPVisionModel, rng: random.Random) -> None:
        self.tower, self.rng = tower, rng
        self.stills: list[Still] = []
        self.found: list[torch.Tensor] = []

    @torch.no_grad()
    def grow(self, stills: list[Still]) -> None:
        for first in range(0, len(stills), 512):
            chunk = stills[first : first + 512]
            images = pixels(np.stack([still.render(self.rng, RENDER)[0] for still in chunk]))
            self.found.append(self.tower(images, output_hidden_states=True).hidden_states[-2][:, 1:].half())
        self.stills += stills
        self.features = torch.cat(self.found)


@dataclass
class Row:
    """One picture, album or story with questions that do not see each other: each is what follows the shared prefix in single-turn chat."""

    ids: list[int]
    labels: list[int]
    turn: list[int]  # 0: prefix
    position: list[int]


class Writer:
    """Prefix and questions -> ids, labels, turns and positions, with <image> expanded."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids))
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.pad = tokenizer.pad_token_id

    def write(self, turns: list[tuple[str, str]], visual_tokens: int, limit: int, told: str = "") -> Row:
        prefix = [1, *self.ids("USER:"), *[self.image] * visual_tokens, *self.ids(told), *self.ids("\n")]
        row = Row(list(prefix), [IGNORE] * len(prefix), [0] * len(prefix), list(range(len(prefix))))
        for index, (question, answer) in enumerate(turns):
            head, tail = [*self.ids(question), 2, *self.ids("ASSISTANT:")], [*self.ids(answer), 2]
            size = len(head) + len(tail)
            if index and len(row.ids) + size > limit:
                break
            row.ids += head + tail
            row.labels += [IGNORE] * len(head) + tail
            row.turn += [index + 1] * size
            row.position += range(len(prefix), len(prefix) + size)
        return row

    def batch(self, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids, labels, positions [B, L] and the mask [B, 1, L, L]: causal, and no turn sees another."""
        width = max(len(row.ids) for row in rows)

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([value + [fill] * (width - len(value)) for value in values])

        turn = padded([row.turn for row in rows], -1)
        seen = (turn[:, None, :] == 0) | (turn[:, None, :] == turn[:, :, None])
        mask = (seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
        return (
            padded([row.ids for row in rows], self.pad),
            padded([row.labels for row in rows], IGNORE),
            padded([row.position for row in rows], 0),
            mask,
        )


class Base(nn.Module):
    def __init__(self, vocab_size: int, image_id: int, layers: int) -> None:
        super().__init__()
        text = language_config(vocab_size, layers)
        self.language_model = LlamaForCausalLM._from_config(text, attn_implementation="sdpa")
        self.projector = LlavaMultiModalProjector(
            LlavaConfig(
                vision_config=tower_config(),
                text_config=language_config(vocab_size, layers),
                vision_feature_layer=-2,
                vision_feature_select_strategy="default",
            )
        )
        self.image_id = image_id

    @torch.no_grad()
    def start_from(self, weights: dict[str, torch.Tensor]) -> None:
        """Weights of a model of as many layers or fewer; the layers they lack come last and change nothing at first."""
        missing, unexpected = self.load_state_dict(weights, strict=False)
        new = {key for key in missing if int(key.split("layers.")[1].split(".")[0]) * 9 >= sum("model.layers." in name for name in weights)}
        if unexpected or new != set(missing):
            raise SystemExit(f"these weights are of another model: {unexpected} {sorted(set(missing) - new)}")
        for key, value in self.named_parameters():
            if key in new and ("o_proj" in key or "down_proj" in key):
                value.zero_()

    @torch.no_grad()
    def check_causal(self) -> None:
        """A shared config can lose its attention choice, and with it the causal mask; the loss then falls for the wrong reason."""
        embeds = torch.randn(1, 8, self.language_model.config.hidden_size)
        changed = embeds.clone()
        changed[:, 5:] += 1
        before, after = (self.language_model.model(inputs_embeds=x, use_cache=False).last_hidden_state[:, :5] for x in (embeds, changed))
        if not torch.equal(before, after):
            raise SystemExit("the language model sees the future: no causal mask")

    def loss(
        self, ids: torch.Tensor, labels: torch.Tensor, position: torch.Tensor, mask: torch.Tensor, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features [N, 36, 128] of all pictures in order, pooled to 3 x 3; returns the loss and whether each answer token is right."""
        embeds = self.language_model.model.embed_tokens(ids)
        if features is not None:
            seen = self.projector(features.float())  # [N, 36, D]
            grid = seen.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
            seen = nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)  # [N, 9, D]
            embeds = embeds.masked_scatter((ids == self.image_id)[..., None], seen.reshape(-1, seen.shape[-1]))
        hidden = self.language_model.model(inputs_embeds=embeds, position_ids=position, attention_mask=mask, use_cache=False)
        hidden = hidden.last_hidden_state[:, :-1]
        keep = labels[:, 1:] != IGNORE
        logits = self.language_model.lm_head(hidden[keep])
        target = labels[:, 1:][keep]
        return nn.functional.cross_entropy(logits, target), logits.argmax(-1) == target


def make_rows(
    kind: str,
    count: int,
    gallery: Gallery,
    writer: Writer,
    rng: random.Random,
    albums: list[range],
    changes: list[tuple[Album, range]],
    choice: float,
) -> tuple:
    """One batch of a kind: `loss` arguments."""
    rows, picks = [], []
    for _ in range(count):
        if kind == "still":
            index = rng.randrange(len(gallery.stills))
            still = gallery.stills[index]
            found = still_questions(still, rng)
            said = conversation(rng.sample(found, min(9, len(found))), rng, 0.45)
            said.insert(0, (CAPTION_REQUEST, still_caption(still)))
            rows.append(writer.write(said, POOLED, 230))
            picks.append(index)
        elif kind == "album":
            members = rng.choice(albums)
            found = album_questions([gallery.stills[i] for i in members], rng)
            said = conversation(rng.sample(found, min(12, len(found))), rng, 0.4)
            rows.append(writer.write(said, POOLED * len(members), 320))
            picks += list(members)
        elif kind == "change":
            changing, members = rng.choice(changes)
            rows.append(
                writer.write(change_conversation(changing, rng, 16, choice), POOLED * len(members), 320 if len(members) > 4 else 230)
            )
            picks += list(members)
        else:
            told, asked = story(rng)
            said = conversation(rng.sample(asked, min(4, len(asked))), rng, 0.6) + conversation([echo(rng) for _ in range(3)], rng, 1.0)
            rows.append(writer.write(said, 0, 260, told))
    return *writer.batch(rows), gallery.features[picks] if picks else None


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=700)
    options.add_argument("--lr", type=float, default=2e-3)
    options.add_argument("--pool", type=int, default=10000)
    options.add_argument("--still", type=int, default=18)
    options.add_argument("--album", type=int, default=6)
    options.add_argument("--story", type=int, default=8)
    options.add_argument("--change", type=int, default=0)
    options.add_argument("--changes", type=int, default=5000, help="pool of albums in which something differs")
    options.add_argument("--sizes", default="8", help="pictures in these, as often as written")
    options.add_argument("--choice", type=float, default=0.5, help="share of multiple choice about them")
    options.add_argument("--out", default="language.safetensors")
    options.add_argument("--init", default=None)
    options.add_argument("--layers", type=int, default=LAYERS)
    options.add_argument("--stop", type=int, default=None, help="end early, with the schedule of --steps")
    options.add_argument("--warm", type=int, default=150)
    options.add_argument("--seed", type=int, default=2)
    options = options.parse_args()
    torch.manual_seed(0)
    rng = random.Random(options.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "tokenizer")
    tower = CLIPVisionModel._from_config(tower_config(), attn_implementation="sdpa").eval()
    tower.load_state_dict(load_file(HERE / "build" / "tower.safetensors"))
    start = time.time()
    singles, gallery = Gallery(tower, rng), Gallery(tower, rng)
    singles.grow([random_still(rng) for _ in range(options.pool)])
    albums = [random_album(rng, rng.choice((2, 4, 8, 8, 8))) for _ in range(options.pool // 8)]
    ends = np.cumsum([len(album) for album in albums])
    album_pool = [range(end - len(album), end) for album, end in zip(albums, ends, strict=True)]
    gallery.grow([still for album in albums for still in album])
    sizes = [int(size) for size in options.sizes.split(",")]
    changing, changed = (
        [random_changes(rng, rng.choice(sizes)) for _ in range(options.changes if options.change else 0)],
        Gallery(tower, rng),
    )
    ends = np.cumsum([len(album.pictures) for album in changing])
    changes = [(album, range(end - len(album.pictures), end)) for album, end in zip(changing, ends, strict=True)]
    if changes:
        changed.grow([picture for album in changing for picture in album.pictures])
    print(f"{len(singles.stills) + len(gallery.stills) + len(changed.stills)} pictures in {time.time() - start:.0f} s", flush=True)
    writer = Writer(tokenizer)
    base = Base(len(tokenizer), writer.image, options.layers)
    if options.init:
        base.start_from(load_file(HERE / "build" / options.init))
    base.check_causal()
    print(f"{sum(p.numel() for p in base.parameters()) / 1e6:.2f} M parameters", flush=True)
    matrices = [p for name, p in base.named_parameters() if p.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in base.parameters() if id(p) not in chosen]
    optimizers = [  # Muon on the hidden matrices: about twice the progress a step of AdamW alone here (LOG.md)
        Muon(matrices, lr=options.lr),
        torch.optim.AdamW(others, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / options.warm)
        left = 1 - step / options.steps
        return warm * min(1.0, left / 0.35) if left < 0.35 else warm  # hold the peak, then to zero over the last 35 %

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, rate(step))) for optimizer in optimizers]
    kinds = {"still": options.still, "album": options.album, "story": options.story, "change": options.change}
    running: dict[str, list[float]] = {kind: [0.0, 0.0, 0.0] for kind in kinds}
    start = time.time()
    for step in range(options.stop or options.steps):
        base.zero_grad()
        for kind, count in kinds.items():
            if not count:
                continue
            source = {"still": singles, "change": changed}.get(kind, gallery)
            loss, right = base.loss(*make_rows(kind, count, source, writer, rng, album_pool, changes, options.choice))
            (loss * {"still": 1.0, "album": 1.0, "story": 0.5, "change": 2.0}[kind]).backward()
            record = running[kind]
            record[0] += loss.item()
            record[1] += right.float().mean().item()
            record[2] += 1
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 25 == 24:
            told = "  ".join(f"{kind} {a / max(n, 1):.3f} {100 * b / max(n, 1):.1f}%" for kind, (a, b, n) in running.items())
            running = {kind: [0.0, 0.0, 0.0] for kind in kinds}
            print(
                f"step {step + 1} {told} lr {optimizers[0].param_groups[0]['lr']:.1e} {(time.time() - start) / (step + 1):.2f} s/step",
                flush=True,
            )
        if step % 250 == 249 or step + 1 == (options.stop or options.steps):
            save_file({name: value.detach().clone() for name, value in base.state_dict().items()}, HERE / "build" / options.out)
    if math.isnan(loss.item()):
        raise SystemExit("loss is not a number")


if __name__ == "__main__":
    main()
