"""A study runs point by point, goes on where it was, and its intervals hold both what seeds and what videos add."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from pllava.apps.gallery.current import Current
from pllava.apps.gallery.queries import Filter
from pllava.artifacts import gallery_links as links
from pllava.core.errors import PllavaError
from pllava.core.overrides import applied
from pllava.core.params import Params, load_params
from pllava.stages.train.resume import FOLDER
from pllava.trials import study as runs
from pllava.trials.specification import read_study
from pllava.trials.study import study
from pllava.trials.study_report import interval, mean_of_tasks

Project = Callable[..., Params]
ROOT = Path(__file__).parents[3]


def write_study(points: dict[str, Any], **changes: Any) -> str:
    values = {"title": "Small", "axis": "tokens", "shared": {"train.steps": 2}, "seeds": [5, 6], "points": points} | changes
    Path("small.yaml").write_text(yaml.safe_dump(values))
    return "small.yaml"


def test_points_that_are_there_are_not_run_again(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[list[tuple[str, int]]] = []
    train = runs._run

    def count(group: Any, found: Any) -> Any:
        trained.append(list(group))
        return train(group, found)

    monkeypatch.setattr(runs, "_run", count)
    points = {"1": {"model.pooling_shape": [4, 1, 1]}, "4": {"model.pooling_shape": [4, 2, 2]}}
    folder = study(prepared(), write_study(points))
    assert trained == [[("1", 5)], [("4", 5)], [("1", 6)], [("4", 6)]]
    first = (folder / "results.json").read_text()
    assert set(json.loads(first)["points"]) == {"1", "4"}
    assert {"table.md", "chart.png", "points"} <= {file.name for file in folder.iterdir()}
    index = Current([str(folder)], home=Path("index")).now().index
    for seed in (5, 6):
        label = f"tokens 4, seed {seed}: adapted"
        assert links.questions("mvbench", model=label) in (folder / "table.md").read_text()
        right = sum(answer["correct"] for answer in json.loads((folder / f"points/4-seed{seed}.json").read_text())["answers"])
        assert index.count(Filter(model=label, verdict="right")) == right
    assert not Path("outputs/train").exists(), "a study leaves the pipeline's outputs alone"

    trained.clear()
    (folder / "points/4-seed6.json").unlink()  # as if killed before the last
    study(prepared(), write_study(points))
    assert trained == [[("4", 6)]]
    trained.clear()
    study(prepared(train={"learning_rate": 1e-3}), write_study(points), seeds=1)
    assert trained == [[("1", 5)], [("4", 5)]], "other settings are other points"


def test_points_of_another_language_model_are_other_points(prepared: Project) -> None:
    """The tower may be the same: the base is all of its weights."""
    base = Path("base")
    shutil.copytree(prepared().model.base, base)
    _, found = read_study(write_study({"4": {"model.pooling_shape": [4, 2, 2]}}))
    params = prepared(model={"base": str(base)})
    before = runs._key(params, found)
    file = base / "model.safetensors"
    with safe_open(file, "pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    tensors["language_model.lm_head.weight"] += 1
    save_file(tensors, file)
    assert runs._key(params, found) != before


def test_a_study_leaves_an_unfinished_training_alone(prepared: Project) -> None:
    unfinished = FOLDER / "step-00000001"
    unfinished.mkdir(parents=True)
    study(prepared(train={"checkpoint_every": 1}), write_study({"4": {"model.pooling_shape": [4, 2, 2]}}, seeds=[5]))
    assert list(FOLDER.iterdir()) == [unfinished]
    with pytest.raises(PllavaError, match="the loss is nan"):
        study(prepared(train={"learning_rate": 1e30}), write_study({"1": {"model.pooling_shape": [4, 1, 1]}}, seeds=[5]), steps=4)
    assert list(FOLDER.iterdir()) == [unfinished]


def test_points_may_differ_in_precision(prepared: Project) -> None:
    points = {precision: {"train.mixed_precision": precision} for precision in ("bf16", "no")}  # the next test begins with "no"
    folder = study(prepared(), write_study(points, seeds=[5]))
    assert set(json.loads((folder / "results.json").read_text())["points"]) == {"no", "bf16"}


def test_alpha_at_inference_takes_one_training_a_seed(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = runs._run
    monkeypatch.setattr(runs, "_run", lambda group, found: trained.append(len(group)) or train(group, found))
    study(prepared(), write_study({"0": {"evaluate.lora_alpha": 0}, "8": {"evaluate.lora_alpha": 8}}, seeds=[5]))
    assert trained == [2]


def test_every_shipped_study_fits_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = load_params()
    for file in Path("recipes/studies").glob("*.yaml"):
        name, found = read_study(file.stem)
        assert name == file.stem
        assert len(found.seeds) == 3
        for changes in found.points.values():
            applied(params, {**found.shared, **changes})
    assert read_study("temporal")[1].points.keys() == {"1", "2", "4", "8"}


def test_mistakes_are_found_before_the_first_point(prepared: Project) -> None:
    with pytest.raises(PllavaError, match=r"model\.poling_shape: unknown key; did you mean .pooling_shape"):
        study(prepared(), write_study({"1": {"model.poling_shape": [4, 1, 1]}}))
    with pytest.raises(PllavaError, match=r"pooling_shape\[0\] = 9 is more than num_frames = 4"):
        study(prepared(), write_study({"1": {"model.pooling_shape": [4, 1, 1]}, "9": {"model.pooling_shape": [9, 1, 1]}}))
    with pytest.raises(PllavaError, match="seeds: "):
        study(prepared(), write_study({"1": {}}, seeds=[]))
    with pytest.raises(PllavaError, match=r"spacial\.yaml is not there"):
        study(prepared(), "spacial")


def answers(right: list[list[bool]], clips: int = 1) -> list[dict[str, Any]]:
    """One list of answers a task; `clips`: answers in a row that share a clip."""
    return [{"task": f"t{t}", "clip": f"{t}-{n // clips}", "correct": yes} for t, task in enumerate(right) for n, yes in enumerate(task)]


def test_intervals_hold_videos_and_seeds() -> None:
    half = [[True, False] * 50]
    value, low, high = interval([answers(half)], 2000)
    assert value == 0.5
    assert low == pytest.approx(0.40, abs=0.02)
    assert high == pytest.approx(0.60, abs=0.02)
    grouped = interval([answers([sorted(half[0])], clips=10)], 2000)
    assert grouped[2] - grouped[1] > 2 * (high - low), "ten questions of a clip are not ten draws"
    seeds = interval([answers([[True] * 100]), answers([[False] * 100])], 2000)
    assert seeds == (0.5, 0.0, 1.0), "videos agree, seeds do not"


def test_tasks_weigh_the_same() -> None:
    assert mean_of_tasks(answers([[True] * 9, [False]])) == 0.5
