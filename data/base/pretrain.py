"""Pre-train projector and language model on stills, albums and stories: `python pretrain.py` writes build/language.safetensors .

Starts from what look.py taught; the tower stays frozen. Several questions about one picture in one sequence: far more supervision for the
same visual tokens. Four kinds of batch take turns inside each step; the loss counts answers, and the marks of the visual tokens.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from albums import CAPTION_REQUEST as ALBUM_REQUEST
from albums import Album, change_caption, change_conversation, random_changes
from gallery import load_tower, tower_features
from language import Base
from marks import CELLS, marks
from muon import optimizers
from prompts import Batch, Writer
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
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from pllava.stages.render.questions import CAPTION_REQUESTS

HERE = Path(__file__).parent
SHARES = {"answer": 1.0, "option": 0.5, "marks": 0.25}  # of the losses of one batch


class Stills:
    """Single pictures: a caption and up to nine questions."""

    weight = 1.0

    def __init__(self, tower: CLIPVisionModel, count: int) -> None:
        rng = random.Random("stills")
        self.stills = [random_still(rng) for _ in range(count)]
        self.features = tower_features(tower, self.stills, "stills")

    def draw(self, count: int, writer: Writer, rng: random.Random) -> tuple[Batch, Tensor, None]:
        rows, picks = [], [rng.randrange(len(self.stills)) for _ in range(count)]
        for pick in picks:
            found = still_questions(self.stills[pick], rng)
            said = conversation(rng.sample(found, min(9, len(found))), rng, 0.45)
            said.insert(0, (CAPTION_REQUEST, still_caption(self.stills[pick])))
            rows.append(writer.write(said, CELLS, 230))
        return writer.batch(rows), self.features[picks], None


class Albums:
    """Two to eight pictures of the same few objects: questions about one of them, or about all."""

    weight = 1.0

    def __init__(self, tower: CLIPVisionModel, count: int) -> None:
        rng = random.Random("albums")
        self.albums = [random_album(rng, rng.choice((2, 4, 8, 8, 8))) for _ in range(count)]
        self.features = _split(tower_features(tower, [still for album in self.albums for still in album], "albums"), self.albums)

    def draw(self, count: int, writer: Writer, rng: random.Random) -> tuple[Batch, Tensor, None]:
        rows, picks = [], [rng.randrange(len(self.albums)) for _ in range(count)]
        for pick in picks:
            found = album_questions(self.albums[pick], rng)
            said = conversation(rng.sample(found, min(12, len(found))), rng, 0.4)
            rows.append(writer.write(said, CELLS * len(self.albums[pick]), 320))
        return writer.batch(rows), torch.cat([self.features[pick] for pick in picks]), None


class Changes:
    """Albums in which something differs: questions that need several pictures, marks, and (of `described_share` of them) a caption."""

    weight = 2.0

    def __init__(self, tower: CLIPVisionModel, count: int, described_share: float) -> None:
        self.described_share = described_share
        rng = random.Random("changes")
        self.albums: list[Album] = [random_changes(rng, rng.choice((2, 4, 8, 8, 8, 8, 8, 8))) for _ in range(count)]
        pictures = [album.pictures for album in self.albums]
        self.features = _split(tower_features(tower, [still for album in pictures for still in album], "changes"), pictures)
        self.marks = [torch.from_numpy(marks(album)) for album in self.albums]

    def draw(self, count: int, writer: Writer, rng: random.Random) -> tuple[Batch, Tensor, Tensor]:
        rows, picks = [], [rng.randrange(len(self.albums)) for _ in range(count)]
        for number, pick in enumerate(picks):
            size = len(self.albums[pick].pictures)
            said = change_conversation(self.albums[pick], rng, 16, 0.5)
            if number < count * self.described_share:
                said.insert(0, (ALBUM_REQUEST, change_caption(self.albums[pick])))
            rows.append(writer.write(said, CELLS * size, 320 if size > 4 else 230))
        return writer.batch(rows), torch.cat([self.features[p] for p in picks]), torch.cat([self.marks[p] for p in picks])


class Stories:
    """Text alone: the words of motion, the form of multiple choice, and (`told_share` of the rows) descriptions of nothing."""

    weight = 0.5

    def __init__(self, told_share: float) -> None:
        self.told_share = told_share

    def draw(self, count: int, writer: Writer, rng: random.Random) -> tuple[Batch, None, None]:
        rows = []
        for number in range(count):
            if number < count * self.told_share:
                rows.append(writer.write([(rng.choice(CAPTION_REQUESTS), story(rng)[0]) for _ in range(8)], 0, 400))
                continue
            told, asked = story(rng)
            said = conversation(rng.sample(asked, min(4, len(asked))), rng, 0.6) + conversation([echo(rng) for _ in range(8)], rng, 1.0)
            rows.append(writer.write(said, 0, 400, told))
        return writer.batch(rows), None, None


def _split(features: Tensor, albums: Sequence[Sequence[Still]]) -> list[Tensor]:
    ends = list(accumulate(len(album) for album in albums))
    return [features[end - len(album) : end] for end, album in zip(ends, albums, strict=True)]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--lr", type=float, default=2e-3)
    options.add_argument("--pool", type=int, default=8000, help="of each kind")
    options.add_argument("--still", type=int, default=8)
    options.add_argument("--album", type=int, default=8)
    options.add_argument("--change", type=int, default=16)
    options.add_argument("--story", type=int, default=8)
    options.add_argument("--told", type=float, default=0.0, help="share of the stories that are told, not asked about")
    options.add_argument("--described", type=float, default=0.0, help="share of the changing albums that are described, too")
    options.add_argument("--init", default="look.safetensors")
    options.add_argument("--out", default="language.safetensors")
    options.add_argument("--stop", type=int, default=None, help="end early, with the schedule of --steps")
    options.add_argument("--seed", type=int, default=2)
    options = options.parse_args()
    torch.manual_seed(0)
    rng = random.Random(options.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "tokenizer")
    writer, tower = Writer(tokenizer), load_tower()
    start = time.time()
    counts = {"still": options.still, "album": options.album, "change": options.change, "story": options.story}
    pools = {
        "still": Stills(tower, options.pool),
        "album": Albums(tower, options.pool // 2),
        "change": Changes(tower, options.pool, options.described),
        "story": Stories(options.told),
    }
    print(f"pictures in {time.time() - start:.0f} s", flush=True)
    base = Base(len(tokenizer), writer.image)
    fresh, looked = base.state_dict(), load_file(HERE / "build" / options.init)
    base.load_state_dict(fresh | {name: value for name, value in looked.items() if value.shape == fresh[name].shape})
    base.check_causal()
    print(f"{sum(p.numel() for p in base.parameters()) / 1e6:.2f} M parameters", flush=True)
    steppers, rate = optimizers(base, options.lr, options.steps, warm=100)
    running: dict[str, list[float]] = defaultdict(list)
    start = time.time()
    last = options.stop or options.steps
    for step in range(last):
        base.zero_grad()
        for kind, pool in pools.items():
            if not counts[kind]:
                continue
            batch, features, truth = pool.draw(counts[kind], writer, rng)
            with torch.autocast("cpu", torch.bfloat16):
                losses, right = base.answers(batch, features, truth)
            (pool.weight * sum(SHARES[name] * loss for name, loss in losses.items())).backward()
            running[kind].append(losses["answer"].item())
            for name, hits in right.items():
                running[f"{kind} {name} %"].append(100 * hits.float().mean().item())
        nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        rate(steppers, step)
        if step % 25 == 24 or step + 1 == last:
            told = "  ".join(f"{name} {np.mean(values):.3f}" for name, values in running.items())
            print(f"step {step + 1} {told} {(time.time() - start) / (step + 1):.2f} s/step", flush=True)
            if math.isnan(running["still"][-1]):
                raise SystemExit("loss is not a number")
            running.clear()
        if step % 250 == 249 or step + 1 == last:
            save_file({name: value.detach().clone() for name, value in base.state_dict().items()}, HERE / "build" / options.out)


if __name__ == "__main__":
    main()
