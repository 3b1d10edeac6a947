"""`pllava up | down | status`: the services of the project. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from pllava.cli.options import PARAMS, say
from pllava.core.errors import PllavaError

commands = typer.Typer()


def _project() -> Path:
    """Change to the project folder and return it. Works from any folder of the project; raises PllavaError outside a project."""
    from pllava.tracking.store import project_root

    root = project_root()
    if not (root / PARAMS).is_file():
        raise PllavaError(f"{root} is in no project, and this needs one. Go to its folder, or make one: pllava init FOLDER")
    os.chdir(root)
    return root


@commands.command()
def up() -> None:
    """Start all services and wait until they serve."""
    from pllava.services.up import up

    typer.echo(up(_project(), say))


@commands.command()
def down() -> None:
    """Stop all services and the demo."""
    from pllava.services.down import down

    typer.echo(down(_project()))


@commands.command()
def status() -> None:
    """Show which services run, and where."""
    from pllava.services.status import status

    typer.echo(status(_project()))
