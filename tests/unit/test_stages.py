"""What alters a stage's output makes the stage stale: `dvc.yaml` lists every room that the stage imports, and no room that it does not."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = {name: entry.get("do", entry) for name, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()}
DATA = {
    "prepare": ["data/raw/kitchen/train.json", "data/base/tiny-llava/tokenizer.json"],  # data of one's own; the tokenizer counts tokens
    "train": ["data/base/tiny-llava/model.safetensors"],
    "evaluate": ["data/raw/MVBench/json/moving_count.json"],
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pllava", exclude_type_checking_imports=True, cache_dir=None)


def room_of(module: str) -> str:
    """The folder of dvc.yaml that a module lies in: pllava/core, pllava/stages/train."""
    parts = module.split(".")
    return "/".join(parts[:3] if parts[1] == "stages" else parts[:2])


def rooms_of(stage: str, graph: grimp.ImportGraph) -> set[str]:
    """Every room whose code runs in a stage: those that its package imports, directly or not, also inside functions."""
    package = f"pllava.stages.{stage}"
    modules = {package} | graph.find_descendants(package)
    closure = modules.union(*(graph.find_upstream_modules(module) for module in modules))
    return {room_of(module) for module in closure if module.count(".") > 0 and module != "pllava.stages"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_does(stage):
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_rooms_a_stage_imports_are_those_dvc_watches(stage, graph):
    watched = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pllava/")}
    assert watched == rooms_of(stage, graph)


@pytest.mark.parametrize("stage", DATA)
def test_data_that_alters_the_output_is_watched(stage):
    deps = [dep.replace("${item.root}", "data/raw/MVBench") for dep in STAGES[stage]["deps"]]  # a benchmark's root, as a recipe has it
    assert [file for file in DATA[stage] if not any(Path(file).is_relative_to(dep) for dep in deps)] == []


def test_no_room_imports_the_package_root(graph):
    """`import pllava` loads what it needs by name, so an import of the root would hide what a stage depends on."""
    assert graph.find_modules_that_directly_import("pllava") - {"pllava"} == set()
