"""`pllava gallery`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pllava.apps.web.auth import AUTH_HELP
from pllava.artifacts.gallery_links import PORT
from pllava.cli.options import PARAMS, ParamsFile, say, settings_of
from pllava.core.errors import PllavaError

commands = typer.Typer()


@commands.command()
def gallery(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS", help="folders of results, of a sweep or a study, results.jsonl, mlflow-run:ID; NAME=RESULTS gives a name"
        ),
    ],
    media: Annotated[
        list[str] | None,
        typer.Option(metavar="[BENCHMARK=]FOLDER", help="where the clips are  [default: evaluate.benchmarks.<name>.root of the params]"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    auth: Annotated[str | None, typer.Option(envvar="PLLAVA_AUTH", show_envvar=False, help=AUTH_HELP)] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Browse and compare results in a browser, until Ctrl-C.

    For example: pllava gallery outputs/evaluate, or pllava gallery new=outputs/evaluate old=../before/outputs/evaluate
    """
    roots = dict(_media(text) for text in media or ())
    for root in roots.values():
        if not root.is_dir():
            raise PllavaError(f"--media {root}: no such folder")
    settings = settings_of(params) if params.is_file() or params != PARAMS else None
    from pllava.apps.gallery.serve import serve

    serve(results, settings, roots, host, port, auth, say=say)


def _media(text: str) -> tuple[str, Path]:
    """(benchmark, folder) of a value of --media. The benchmark is "" when the folder is for all benchmarks."""
    name, equals, folder = text.partition("=")
    return (name, Path(folder)) if equals and "/" not in name and not Path(text).is_dir() else ("", Path(text))
