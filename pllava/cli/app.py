"""`pllava ask | demo | deploy | stop`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pllava.apps.web.auth import AUTH_HELP
from pllava.cli.options import (
    PARAMS,
    Adapter,
    LoraAlpha,
    MaxNewTokens,
    ModelName,
    ParamsFile,
    Template,
    say,
    settings_anywhere,
    settings_of,
)

commands = typer.Typer()


@commands.command()
def ask(
    video: Annotated[Path, typer.Argument(help="a video, a GIF, a folder of numbered frames or a still image")],
    question: Annotated[str, typer.Argument(help="one question, in quotes")],
    model: ModelName = None,
    adapter: Adapter = None,
    template: Template = None,
    max_new_tokens: MaxNewTokens = 100,
    lora_alpha: LoraAlpha = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Ask a question about a video.

    The answer goes to stdout, everything else to stderr.
    """
    from pllava.apps.ask import ask

    typer.echo(ask(settings_anywhere(params), video, question, model, adapter, template, max_new_tokens, lora_alpha, say=say))


@commands.command()
def demo(
    model: ModelName = None,
    adapter: Adapter = None,
    template: Template = None,
    lora_alpha: LoraAlpha = None,
    host: Annotated[str | None, typer.Option(help="address to listen on  [default: deploy.host of the params]")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: deploy.port of the params]")] = None,
    auth: Annotated[str | None, typer.Option(envvar="PLLAVA_AUTH", show_envvar=False, help=AUTH_HELP)] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve the chat page in the foreground, until Ctrl-C."""
    from pllava.apps.demo.server import serve

    serve(settings_anywhere(params), model, adapter, template, lora_alpha, host, port, auth, say=say)


@commands.command()
def deploy(
    restart: Annotated[bool, typer.Option("--restart", help="in a new process: one model in memory, and a gap")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve the champion in the background.

    It is asked one question about a held-out clip; when that fails, the one before serves on.
    """
    from pllava.services.deploy import deploy

    typer.echo(deploy(settings_of(params), restart).describe())


@commands.command()
def stop() -> None:
    """Stop the demo that deploy started."""
    from pllava.services.deploy import stop_demo

    stopped = stop_demo()
    typer.echo(f"stopped the demo (process {stopped})" if stopped else "no demo of this project is running")
