"""Recipes: whole params files to start from. `pllava recipe list`, `pllava recipe use pllava-7b`.

The package holds recipes (pllava/core/shipped.py). Those in recipes/ of the current folder come first.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from pllava.core import shipped
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text
from pllava.core.params import PARAMS_FILE, Params, load_params

RECIPES = Path("recipes")  # in the project folder, as params.yaml is, and in shipped.folder()


def names(project: Path = Path()) -> list[str]:
    """Names of the recipes, sorted."""
    return sorted({path.stem for folder in (project, shipped.folder()) for path in (folder / RECIPES).glob("*.yaml")})


def path_of(name: str) -> Path:
    """The recipe's file. Raises PllavaError for an unknown name; it names the nearest recipe."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "show them: pllava recipe list"
        raise PllavaError(f"there is no recipe {name!r} ({', '.join(known)}); {hint}")
    return shipped.locate(RECIPES / f"{name}.yaml")


def read(name: str) -> str:
    return path_of(name).read_text()


def load(name: str) -> Params:
    return load_params(path_of(name))


def overview() -> list[str]:
    """One line for each recipe: its model, frames, visual tokens, and steps."""
    width = max(map(len, names()))
    lines = []
    for name in names():
        model, train = load(name).model, load(name).train
        t, h, w = model.pooling_shape
        lines.append(
            f"{name:<{width}}  {model.base}: {model.num_frames} frames -> {t} x {h} x {w} = {t * h * w} visual tokens, "
            f"{train.steps or f'{train.epochs:g} epoch(s) in'} steps of {train.batch_size}"
        )
    return lines


def use(name: str, force: bool = False) -> str:
    """Write a recipe to params.yaml, byte for byte; returns a sentence that says so.

    Raises PllavaError when the recipe is not valid, or when params.yaml holds settings that no recipe holds and `force` is not given.
    """
    text = read(name)
    load(name)
    target = Path(PARAMS_FILE)
    if target.exists() and not force and target.read_text() not in {read(other) for other in names()}:
        raise PllavaError(
            f"{target} holds settings of your own, which no recipe holds. "
            f"Keep them: mkdir -p {RECIPES} && cp {target} {RECIPES}/mine.yaml; or overwrite them: pllava recipe use {name} --force"
        )
    atomic_write_text(target, text)
    return f"{target} is now the recipe {name}"
