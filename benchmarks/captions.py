"""How often the adapted built-in model describes a clip without a mistake: `python benchmarks/captions.py`.

Every validation clip's caption question, answered greedily through the public API; an answer counts when it is the caption word for word,
a sentence when it is one of the caption's. The clips were not trained on. Prints the first answers, then one JSON line with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

import pllava
from pllava.core.params import load_params
from pllava.stages.render.questions import CAPTION_REQUESTS

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, default=Path("outputs/train/adapter"))
    parser.add_argument("--show", type=int, default=8, help="answers to print")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    params = load_params(Path("params.yaml"))
    corpus = params.data.validation[0]
    model, processor = pllava.load(arguments.adapter, dtype="float32", device="cpu")
    chat = pllava.VideoChat(model, processor, template=params.model.template)
    whole, sentences = [], []
    for row in json.loads(Path(corpus.annotations).read_text()):
        for turn in row["QA"]:
            if turn["q"] not in CAPTION_REQUESTS:
                continue
            said = chat.watch(corpus.media / row["video"]).ask(turn["q"], 64).text
            right = turn["a"].removesuffix(".").split(". ")
            whole.append(said == turn["a"])
            sentences += [(sentence in right) for sentence in said.removesuffix(".").split(". ")]
            if len(whole) <= arguments.show:
                print("right" if whole[-1] else "wrong", f"  {said}" if whole[-1] else f"  {said}\n        {turn['a']}")
    print(json.dumps({"clips": len(whole), "whole": interval(whole), "sentences": len(sentences), "sentence": interval(sentences)}))


def interval(hits: list[bool]) -> list[float]:
    """Share of hits with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(hits, float), (2000, len(hits))).mean(1)
    return [round(float(value), 3) for value in (np.mean(hits), *np.quantile(drawn, (0.025, 0.975)))]


if __name__ == "__main__":
    main()
