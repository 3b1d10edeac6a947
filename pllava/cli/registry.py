"""`pllava register | gate | promote | rollback | lineage | reproduce`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile, say, settings_of

commands = typer.Typer()
Version = Annotated[int | None, typer.Option(min=1, help="version of the model  [default: the candidate, registered last]")]


@commands.command()
def register(params: ParamsFile = PARAMS) -> None:
    """Make the trained adapter a new version in the registry."""
    from pllava.registry import register

    typer.echo(register(settings_of(params)))


@commands.command()
def gate(version: Version = None, params: ParamsFile = PARAMS) -> None:
    """Compare a version with the champion.

    Exit code 1 when it does not pass.
    """
    from pllava.registry import gate

    result = gate(settings_of(params), version=version)
    typer.echo(result.table)
    for reason in result.reasons:
        typer.echo(f"- {reason}")
    typer.echo("gate: passed" if result.passed else "gate: not passed")
    raise typer.Exit(0 if result.passed else 1)


@commands.command()
def promote(
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="even when the gate says no; this is recorded")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why it is forced")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make a version that passed the gate the champion."""
    from pllava.registry import promote

    typer.echo(promote(settings_of(params), version=version, force=force, reason=reason))


@commands.command()
def rollback(
    deploy: Annotated[bool | None, typer.Option(help="serve it  [default: when the demo is running]")] = None, params: ParamsFile = PARAMS
) -> None:
    """Make the previous champion the champion again, and serve it."""
    from pllava.core import processes as process
    from pllava.registry import rollback

    settings = settings_of(params)
    typer.echo(rollback(settings))
    if deploy or (deploy is None and process.recorded()):
        from pllava.services.deploy import deploy as serve

        typer.echo(serve(settings).describe())


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
