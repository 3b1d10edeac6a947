"""`pllava serve`: chat about videos over HTTP. Nothing heavy is imported before the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pllava.cli.options import PARAMS, Adapter, LoraAlpha, ModelName, ParamsFile, Template, say, settings_anywhere

commands = typer.Typer()


@commands.command()
def serve(
    model: ModelName = None,
    adapter: Adapter = None,
    template: Template = None,
    lora_alpha: LoraAlpha = None,
    host: Annotated[str, typer.Option(help="address to listen on; others than loopback need PLLAVA_API_KEY")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    max_waiting: Annotated[int, typer.Option(min=0, help="requests in the queue; the next gets 429")] = 16,
    max_megabytes: Annotated[int, typer.Option(min=1, help="size of one video")] = 64,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="length of one video")] = 3600.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="the most a request may ask for")] = 1024,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds of one request, waiting included")] = 300.0,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve an OpenAI-compatible API until Ctrl-C.

    Clients need the key in PLLAVA_API_KEY when it is set.
    """
    from pllava.apps.serve.command import serve
    from pllava.apps.serve.settings import ServeSettings, key_from_environment

    settings = ServeSettings(
        host=host,
        port=port,
        max_waiting=max_waiting,
        max_bytes=max_megabytes << 20,
        max_seconds=max_seconds,
        max_new_tokens=max_new_tokens,
        timeout=timeout,
        api_key=key_from_environment(),
    )
    serve(settings_anywhere(params), settings, model, adapter, template, lora_alpha, say=say)
