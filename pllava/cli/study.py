"""`pllava study`: vary one setting over several seeds. Nothing heavy is imported before the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile, say, settings_of

commands = typer.Typer()


@commands.command()
def study(
    name: Annotated[str, typer.Argument(help="a name in recipes/studies, or a file of that form")],
    seeds: Annotated[int | None, typer.Option(min=1, help="only the first so many of its seeds")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps, for a look: other points than those of the study")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Train and score every point of a study; go on if stopped."""
    from pllava.trials.study import study

    say(study(settings_of(params), name, seeds, steps))
