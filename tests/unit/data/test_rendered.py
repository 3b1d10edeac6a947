"""The rendered corpus: what the script says is what the pixels show, and the same seed gives the same files."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pllava.core.hashing import sha256_file
from pllava.core.params import Params, load_params
from pllava.stages.render.clip import THEMES, random_clip
from pllava.stages.render.corpus import render
from pllava.stages.render.questions import STILL_TASKS, TASKS, questions
from pllava.stages.render.scene import COLORS

ROOT = Path(__file__).parents[3]


def small(root: Path, seed: int = 5) -> Params:
    params = load_params(ROOT / "recipes" / "tiny.yaml")
    settings = params.rendered.model_copy(update={"root": root, "instruction_clips": 14, "validation_clips": 7, "test_clips_per_task": 8})
    return params.model_copy(update={"seed": seed, "rendered": settings})


def hashes(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def centre(frame: np.ndarray, color: str) -> tuple[float, float] | None:
    """Middle of the pixels of one color, or None when it is not seen."""
    near = np.abs(frame.astype(int) - COLORS[color]).sum(-1) < 40
    if near.sum() < 12:
        return None
    rows, columns = np.nonzero(near)
    return float(columns.mean()), float(rows.mean())


def alone(clip: object, color: str) -> bool:
    """Only one object has (or takes) this color, so that its pixels can be told apart."""
    return sum(color in (actor.color, actor.new_color) for actor in clip.actors) == 1  # type: ignore[attr-defined]


def test_same_seed_same_bytes_other_seed_other_clips(tmp_path: Path) -> None:
    first, again, other = (hashes(render(small(tmp_path / name, seed))) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    first.pop("corpus.json"), again.pop("corpus.json"), other.pop("corpus.json")
    assert first == again
    assert set(first) == set(other)
    assert not {v for k, v in first.items() if k.endswith(".mp4")} & {v for k, v in other.items() if k.endswith(".mp4")}


def test_no_clip_is_in_two_splits_and_test_answers_are_balanced(tmp_path: Path) -> None:
    root = render(small(tmp_path / "corpus"))
    clips = [digest for name, digest in hashes(root).items() if name.endswith(".mp4")]
    assert len(clips) == len(set(clips)) == 14 + 7 + 8 * len(TASKS)
    for task in ("moving_direction", "moving_count", "action_count", "state_change", "action_sequence", "object_existence"):
        rows = json.loads((root / "MVBench" / "json" / f"{task}.json").read_text())
        counts = Counter(row["answer"] for row in rows)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == len(rows[0]["candidates"])
    for path in (root / "MVBench" / "json").iterdir():
        for row in json.loads(path.read_text()):
            assert row["candidates"].count(row["answer"]) == 1
            assert (root / "MVBench" / "video" / path.stem / row["video"]).is_file()


def test_instruction_rows_are_videochat2_it(tmp_path: Path) -> None:
    root = render(small(tmp_path / "corpus"))
    rows = json.loads((root / "instruction" / "train.json").read_text())
    assert len(rows) == 14
    for row in rows:
        assert (root / "videos" / row["video"]).is_file()
        assert row["QA"]
        assert all(set(turn) == {"i", "q", "a"} and turn["a"] for turn in row["QA"])


def test_disabled_writes_no_clips(tmp_path: Path) -> None:
    params = small(tmp_path / "corpus")
    root = render(params.model_copy(update={"rendered": params.rendered.model_copy(update={"enabled": False})}))
    assert [path.name for path in root.rglob("*")] == ["corpus.json"]


@pytest.mark.parametrize("theme", THEMES)
def test_every_theme_asks_its_tasks_and_answers_are_options(theme: str) -> None:
    rng = random.Random(theme)
    seen = set()
    for _ in range(60):
        clip = random_clip(rng, theme)
        assert len({actor.name for actor in clip.actors}) == len(clip.actors)
        for question in questions(clip, rng):
            seen.add(question.task)
            assert question.options.count(question.answer) == 1
            assert len(set(question.options)) == len(question.options)
    assert {task for task, carrier in TASKS.items() if carrier == theme} <= seen


def test_pixels_move_the_way_the_script_says() -> None:
    rng = random.Random(1)
    checked = 0
    for _ in range(40):
        clip = random_clip(rng, rng.choice(("motion", "turn")))
        frames = clip.frames(24, 96)
        for actor in clip.actors:
            if actor.moves and alone(clip, actor.color):
                start, end = centre(frames[0], actor.color), centre(frames[-1], actor.color)
                assert start
                assert end
                for way in actor.moves:
                    axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[way]
                    assert (end[axis] - start[axis]) * sign > 30
                checked += 1
    assert checked > 20


def test_pixels_blink_as_often_as_the_script_says_even_in_eight_frames() -> None:
    rng = random.Random(2)
    for _ in range(30):
        clip = random_clip(rng, "blink")
        frames = clip.frames(24, 96)
        for indices in (range(24), (1, 4, 7, 10, 13, 16, 19, 22)):
            for actor in clip.actors:
                if alone(clip, actor.color):
                    lit = [centre(frames[i], actor.color) is not None for i in indices]
                    assert sum(a and not b for a, b in itertools.pairwise(lit)) == actor.blinks


def test_one_frame_does_not_tell_the_direction() -> None:
    """Played backwards, a clip has the same middle frame and the opposite answer."""
    rng = random.Random(3)
    clip = random_clip(rng, "motion")
    while sum(bool(actor.moves) for actor in clip.actors) != 1:
        clip = random_clip(rng, "motion")
    back = copy.deepcopy(clip)
    for actor in back.actors:
        actor.path = [(1 - time, x, y) for time, x, y in reversed(actor.path)]
    forward, backward = clip.frames(25, 64), back.frames(25, 64)
    assert np.array_equal(forward[12], backward[12])
    assert np.array_equal(forward[::-1], backward)
    assert not np.array_equal(forward[0], backward[0])


def test_only_existence_is_asked_of_a_still() -> None:
    assert set(STILL_TASKS) == {"Object Existence"} < set(TASKS)
