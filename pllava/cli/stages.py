"""`pllava code | render | prepare | features | train`: the stages before evaluation. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile, say, settings_of

commands = typer.Typer()


@commands.command()
def code() -> None:
    """Stage of a project without the code: what is installed."""
    from pllava.services.rooms import write_rooms

    say(write_rooms())


@commands.command()
def render(params: ParamsFile = PARAMS) -> None:
    """Stage: write the built-in corpus of moving shapes."""
    from pllava.stages.render.corpus import render

    say(render(settings_of(params)))


@commands.command()
def prepare(params: ParamsFile = PARAMS) -> None:
    """Stage: check annotations and media, write the manifests."""
    from pllava.stages.prepare.run import prepare

    say(prepare(settings_of(params)))


@commands.command()
def features(params: ParamsFile = PARAMS) -> None:
    """Stage: run the vision tower once over each distinct clip."""
    from pllava.stages.features.run import features

    say(features(settings_of(params)))


@commands.command()
def train(
    params: ParamsFile = PARAMS,
    fresh: Annotated[bool, typer.Option("--fresh", help="drop an unfinished training instead of going on with it")] = False,
) -> None:
    """Stage: train LoRA and the projector, or go on if stopped."""
    from pllava.stages.train.launch import train

    say(train(settings_of(params), fresh))
