"""`pllava recipe list | show | use`: whole params files to start from."""

from __future__ import annotations

from typing import Annotated

import typer

commands = typer.Typer(help="Whole params files to start from (list, show, use).", no_args_is_help=True)


@commands.command("list")
def recipe_list() -> None:
    """Name each recipe with its model and size."""
    from pllava.core import recipes as recipe

    for line in recipe.overview():
        typer.echo(line)


@commands.command("show")
def recipe_show(name: str) -> None:
    """Print one recipe."""
    from pllava.core import recipes as recipe

    typer.echo(recipe.read(name), nl=False)


@commands.command("use")
def recipe_use(name: str, force: Annotated[bool, typer.Option("--force", help="overwrite settings of your own")] = False) -> None:
    """Check one recipe and write it to params.yaml."""
    from pllava.core import recipes as recipe

    typer.echo(recipe.use(name, force=force))
