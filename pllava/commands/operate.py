"""`pllava up | down | status`: the services of the project. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path

import typer

from pllava.commands.options import say

commands = typer.Typer()


@commands.command()
def up() -> None:
    """Start all services and wait until they serve."""
    from pllava.operate.up import up

    typer.echo(up(Path(), say))


@commands.command()
def down() -> None:
    """Stop all services and the demo."""
    from pllava.operate.down import down

    typer.echo(down(Path()))


@commands.command()
def status() -> None:
    """Show which services run, and where."""
    from pllava.operate.status import status

    typer.echo(status(Path()))
