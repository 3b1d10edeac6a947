"""`pllava render | prepare | features | train`: the stages before evaluation. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import typer

from pllava.commands.options import PARAMS, ParamsFile, say, settings_of

commands = typer.Typer()


@commands.command()
def render(params: ParamsFile = PARAMS) -> None:
    """Stage: write the built-in corpus of moving shapes."""
    from pllava.data.rendered import render

    say(render(settings_of(params)))


@commands.command()
def prepare(params: ParamsFile = PARAMS) -> None:
    """Stage: check annotations and media, write the manifests."""
    from pllava.data.prepare import prepare

    say(prepare(settings_of(params)))


@commands.command()
def features(params: ParamsFile = PARAMS) -> None:
    """Stage: run the frozen vision tower once over each clip."""
    from pllava.data.features import features

    say(features(settings_of(params)))


@commands.command()
def train(params: ParamsFile = PARAMS) -> None:
    """Stage: train LoRA and the projector into one adapter folder."""
    from pllava.train.launch import train

    say(train(settings_of(params)))
