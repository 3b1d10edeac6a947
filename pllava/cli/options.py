"""Options that several commands share, and the settings that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pllava.core.params import Params

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="the settings")]
PARAMS = Path("params.yaml")
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="models:/NAME@champion, models:/NAME/3, an adapter folder, a base folder or a hub id"),
]
Adapter = Annotated[str | None, typer.Option(metavar="FOLDER", help="adapter to put on --model, in any published layout")]
Template = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="conversation template: a name or a .yaml file  [default: what the model was trained with]"),
]
LoraAlpha = Annotated[float | None, typer.Option(help="LoRA strength; the paper lowers it at inference  [default: evaluate.lora_alpha]")]
StoredAlpha = Annotated[float | None, typer.Option(help="LoRA strength  [default: what the adapter's folder says, else 32]")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="the answer is cut there")]


def settings_of(path: Path) -> Params:
    """The validated settings of a params file. Raises PllavaError with every problem in it."""
    from pllava.core.params import load_params

    return load_params(path)


def settings_anywhere(path: Path) -> Params:
    """Settings for a command that needs no project: those of the file. Without a params.yaml, those of the recipe tiny."""
    if path != PARAMS or path.exists():
        return settings_of(path)
    return settings_of_recipe("tiny")


def settings_of_recipe(name: str) -> Params:
    """A recipe's settings. A base that is missing in the current folder is taken from the package."""
    from pllava.core import recipes, shipped

    params = recipes.load(name)
    base = str(shipped.locate(Path(params.model.base)))
    return params.model_copy(update={"model": params.model.model_copy(update={"base": base})})


def say(text: object) -> None:
    """Print a message to stderr. stdout is for results."""
    typer.echo(text, err=True)
