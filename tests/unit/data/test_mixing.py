"""Weights and caps: exact sizes, the same choice every time, a larger share holds a smaller one; images and videos side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pllava.artifacts.manifest import PREPARED, read_manifest
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.stages.prepare.mixing import copies_of, rows_taken
from pllava.stages.prepare.run import prepare


def taken(**settings: object) -> list[int]:
    copies = copies_of("c", 1000, **settings)  # type: ignore[arg-type]
    return [copies(index) for index in range(1000)]


@pytest.mark.parametrize(
    ("weight", "cap", "total"), [(1, None, 1000), (0.25, None, 250), (2, None, 2000), (1.5, None, 1500), (1, 10, 10), (3, 1700, 1700)]
)
def test_a_mixture_has_exactly_the_size_it_says(weight: float, cap: int | None, total: int) -> None:
    found = taken(weight=weight, max_rows=cap)
    assert sum(found) == total == rows_taken(1000, weight, cap)
    assert max(found) - min(found) <= 1


def test_a_larger_share_holds_a_smaller_one() -> None:
    few, more = taken(max_rows=100), taken(weight=0.3)
    assert all(a <= b for a, b in zip(few, more, strict=True))


def test_a_share_is_spread_over_the_file() -> None:
    assert 70 < sum(taken(weight=0.2)[:500]) < 130


def test_one_row_of_a_tiny_corpus_stays() -> None:
    assert copies_of("c", 3, 0.01)(0) + copies_of("c", 3, 0.01)(1) + copies_of("c", 3, 0.01)(2) == 1
    assert copies_of("c", 0)(0) == 0


def test_weights_and_caps_in_the_manifest(project: Callable[..., Params]) -> None:
    base = {"annotations": "data/raw/small/train.json", "media": "data/raw/small/videos"}
    stills = Path("data/raw/stills")
    stills.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (number * 60, 90, 200)).save(stills / f"{number}.png")
    rows = [{"image": f"{number}.png", "QA": [{"q": "Which number?", "a": str(number)}]} for number in range(4)]
    (stills / "rows.json").write_text(json.dumps(rows))
    corpora = [
        {"name": "small", **base, "max_rows": 5},
        {"name": "stills", "kind": "image", "annotations": stills / "rows.json", "media": stills, "weight": 2},
    ]
    prepare(project(data={"train": corpora}))
    train = read_manifest(PREPARED / "train.parquet")
    assert [row.corpus for row in train] == ["small"] * 5 + ["stills"] * 8
    assert len({row.id for row in train}) == 13, "a second copy has an id of its own"
    assert {row.kind for row in train} == {"image", "video"}
    report = json.loads((PREPARED / "report.json").read_text())["splits"]["train"]["corpora"]
    assert (report["small"]["annotation_rows"], report["small"]["checked"], report["small"]["rows"]) == (12, 5, 5)
    assert (report["stills"]["checked"], report["stills"]["rows"], report["stills"]["clips"]) == (4, 8, 4)


def test_stills_and_clips_train_together_from_the_store_as_from_pixels(project: Callable[..., Params]) -> None:
    from pllava.stages.features.run import features
    from pllava.stages.train.loop import OUTPUT, run

    still = Path("data/raw/small/still.png")
    Image.new("RGB", (40, 30), (200, 90, 20)).save(still)
    Path("data/raw/small/stills.json").write_text(json.dumps([{"image": "still.png", "QA": [{"q": "What?", "a": "A colour."}]}]))
    corpora = [
        {"name": "small", "annotations": "data/raw/small/train.json", "media": "data/raw/small/videos", "max_rows": 3},
        {"name": "stills", "kind": "image", "annotations": "data/raw/small/stills.json", "media": "data/raw/small"},
    ]
    hashes = []
    for stored in (True, False):
        params = project(data={"train": corpora}, features={"enabled": stored}, train={"steps": 2})
        prepare(params)
        features(params)
        run(params)
        hashes.append(sha256_file(OUTPUT / "adapter/adapter_model.safetensors"))
    assert hashes[0] == hashes[1]


def test_rows_that_a_cap_leaves_out_are_not_opened(project: Callable[..., Params]) -> None:
    copies = copies_of("small", 12, max_rows=5)
    for index in range(12):
        if not copies(index):
            Path(f"data/raw/small/videos/train/{index}.mp4").unlink()
    corpus = {"name": "small", "annotations": "data/raw/small/train.json", "media": "data/raw/small/videos", "max_rows": 5}
    prepare(project(data={"train": [corpus]}))
    assert len(read_manifest(PREPARED / "train.parquet")) == 5
