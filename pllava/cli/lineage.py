"""`pllava lineage | reproduce`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile, say, settings_of

commands = typer.Typer()


@commands.command()
def lineage(
    target: Annotated[str, typer.Argument(help="models:/NAME@champion, models:/NAME/3, an adapter folder, or a file of results")],
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Say what made a model or a result, back to the commit and data."""
    from pllava.registry.lineage import as_json, lineage, text

    graph = lineage(settings_of(params), target)
    typer.echo(as_json(graph) if json else text(graph))


@commands.command()
def reproduce(uri: Annotated[str, typer.Argument(help="models:/NAME/3 or models:/NAME@ALIAS")]) -> None:
    """Train a version again from its commit, settings and data.

    Exit code 0 when the adapter has the same bytes, 1 when it has not.
    """
    from pllava.registry.reproduce import reproduce

    result = reproduce(uri, say)
    typer.echo(result.describe())
    raise typer.Exit(0 if result.equal else 1)
