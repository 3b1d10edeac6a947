"""The command line: `pllava --help`. Each command calls the same function as the API and the stages.

Nothing heavy is imported before the command that needs it, so `pllava --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pllava.cli import app as app_commands
from pllava.cli import caption, evaluate, gallery, machine, model, operate, recipe, registry, serve, stages
from pllava.cli.data import app as data_app
from pllava.cli.options import say
from pllava.core.errors import PllavaError, show_traceback
from pllava.core.quiet import QUIET

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

app = typer.Typer(
    name="pllava",
    help="PLLaVA: an image-language model taken to video. Settings come from params.yaml of the current folder.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take a third of the time of --help
)
for part in (stages, evaluate, registry, app_commands, serve, caption, gallery, operate, model, machine):
    app.add_typer(part.commands)
app.add_typer(recipe.commands, name="recipe")
app.add_typer(data_app, name="data")


@app.callback()
def _main(debug: Annotated[bool, typer.Option("--debug", help="show a traceback for mistakes you can mend, too")] = False) -> None:
    if debug:
        os.environ["PLLAVA_DEBUG"] = "1"


def main() -> None:
    """Entry point. A PllavaError, a full disk or a missing right to write gives one message and exit code 1. Any other error is a bug and
    keeps its traceback."""
    for name, value in (QUIET | {"TRANSFORMERS_VERBOSITY": "error"}).items():
        os.environ.setdefault(name, value)
    sys.excepthook = show_traceback
    try:
        app()
    except PllavaError as error:
        if os.environ.get("PLLAVA_DEBUG"):
            raise
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PLLAVA_DEBUG") or not (problem := _disk_problem(error)):
            raise
        say(f"error: {problem}. Make room, or give the right to read and write there, then repeat the command; what was finished is kept")
        sys.exit(1)


def _disk_problem(error: Exception) -> str | None:
    """The message for a full disk or a missing right to write; None for any other error."""
    if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
        return f"{error.filename or Path.cwd()}: {error.strerror}"
    if type(error).__module__ == "sqlite3" and any(word in str(error) for word in ("disk is full", "readonly database")):
        return f"{Path.cwd()}: {error}"
    return None
