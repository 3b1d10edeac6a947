"""`pllava init | version | doctor`: make a project, and check this machine. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile

commands = typer.Typer()


@commands.command()
def init(
    folder: Annotated[Path, typer.Argument(help="a new one, or an empty one")],
    recipe: Annotated[str, typer.Option(metavar="NAME", help="its settings: a name of `pllava recipe list`")] = "tiny",
) -> None:
    """Write a project that runs: settings, stages, flows, tiny base."""
    from pllava.services.init import init

    typer.echo(init(folder, recipe))


@commands.command()
def version() -> None:
    """Print the versions of this package and its parts."""
    import platform
    from importlib.metadata import version as installed

    typer.echo(f"pllava {installed('pllava')}")
    for name in ("torch", "transformers", "peft", "accelerate", "decord2", "mlflow", "prefect", "dvc", "gradio"):
        typer.echo(f"  {name} {installed(name)}")
    typer.echo(f"  python {platform.python_version()}, {platform.system()} {platform.machine()}")


@commands.command()
def doctor(params: ParamsFile = PARAMS) -> None:
    """Check what this machine has of what is needed, with reasons.

    Exit code 1 when something needed is missing.
    """
    from pllava.services.doctor import MISSING, describe, examine

    checks = examine(params)
    typer.echo(describe(checks))
    raise typer.Exit(1 if any(check.state == MISSING for check in checks) else 0)
