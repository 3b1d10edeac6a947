"""`pllava data label | add | list | show | check | remove`: the corpora that `prepare` mixes. Commands import what is heavy."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pllava.apps.web.auth import AUTH_HELP
from pllava.cli.options import PARAMS, ParamsFile

if TYPE_CHECKING:
    from pllava.core.params import Params

app = typer.Typer(help="Corpora: add, list, show, check, remove.", no_args_is_help=True)


class Kind(StrEnum):
    video = "video"
    image = "image"
    text = "text"


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


@app.callback()
def _undo_interrupted() -> None:
    """Corpora: add, list, show, check, remove."""
    from pllava.core.errors import PllavaError
    from pllava.corpora.undo import recover

    with suppress(PllavaError):  # another process changes corpora now: commands that only read may go on
        if recover():
            typer.echo("undone: what a killed `pllava data` had left half done", err=True)


@app.command("add")
def data_add(
    name: str,
    annotations: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="VideoChat2-IT JSON, or JSONL with chat messages; of a test set: questions with options, or a folder like MVBench",
        ),
    ],
    media: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="what the annotations' paths are relative to; none for text", show_default=False)
    ] = None,
    kind: Annotated[Kind, typer.Option(help="of the media; text has none")] = Kind.video,
    split: Annotated[Split, typer.Option(help="where its rows go; test: a benchmark of this name")] = Split.train,
    weight: Annotated[float, typer.Option(min=0.0, max=100.0, help="share of its rows in the mixture; 2: each row twice")] = 1.0,
    max_rows: Annotated[int | None, typer.Option(min=1, help="the most rows taken of it")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Check a corpus, track it with DVC, add it to params.yaml."""
    from pllava.corpora.add import add
    from pllava.corpora.test_sets import add_test_set

    if split is Split.test:
        _refuse_for_test_set(kind is not Kind.video, weight != 1.0, max_rows is not None)
        typer.echo("\n".join(add_test_set(name, annotations, media, params)))
        typer.echo(f"{params}: {name} is in evaluate.benchmarks. Next: git add data dvc.yaml {params}; make run")
        return
    added = add(name, annotations, media, kind.value, split.value, weight, max_rows, params)
    typer.echo(added.report.markdown())
    for path, tracker in added.tracked.items():
        typer.echo(f"{path}: tracked by {tracker}")
    typer.echo(
        f"{params}: {name} is in data.{split.value}. The report: {added.report_file}. Next: git add data dvc.yaml {params}; make run"
    )


@app.command("label")
def data_label(
    folder: Annotated[Path, typer.Argument(help="your clips; annotations.json and test.jsonl are written into it")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7870,
    auth: Annotated[str | None, typer.Option(envvar="PLLAVA_AUTH", show_envvar=False, help=AUTH_HELP)] = None,
) -> None:
    """Write questions and answers beside each clip, in a browser, until Ctrl-C."""
    from pllava.apps.label.app import serve

    serve(folder, host, port, auth)


@app.command("list")
def data_list(params: ParamsFile = PARAMS) -> None:
    """Name the corpora of params.yaml and of the paper, with counts."""
    from pllava.core.params import load_params
    from pllava.corpora.listing import overview

    for line in overview(load_params(params)):
        typer.echo(line)


@app.command("show")
def data_show(name: str, params: ParamsFile = PARAMS) -> None:
    """Say all about one corpus: files, counts, where its media come from."""
    from pllava.core.params import load_params
    from pllava.corpora.listing import describe

    for line in describe(load_params(params), name):
        typer.echo(line)


@app.command("check")
def data_check(
    name: str,
    split: Annotated[Split | None, typer.Option(help="[default: each that has it]", show_default=False)] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Check a corpus of params.yaml again.

    Exit code 1 when more of its rows are bad than data.max_bad_fraction allows.
    """
    from pllava.core.params import load_params
    from pllava.corpora.check import check_corpus
    from pllava.corpora.project import find
    from pllava.corpora.test_sets import check_test_set

    settings = load_params(params)
    if _is_test_set(name, split, settings):
        return typer.echo(check_test_set(name, settings))
    reports = [check_corpus(corpus, settings, in_split) for in_split, corpus in find(settings, name, split.value if split else None)]
    typer.echo("\n".join(report.markdown() for report in reports))
    raise typer.Exit(any(report.bad_fraction > settings.data.max_bad_fraction for report in reports))


@app.command("remove")
def data_remove(
    name: str,
    split: Annotated[Split | None, typer.Option(help="[default: each that has it]", show_default=False)] = None,
    delete: Annotated[bool, typer.Option("--delete", help="its files, too; without it they stay")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Take a corpus out of params.yaml and DVC."""
    from pllava.core.params import load_params
    from pllava.corpora.remove import remove
    from pllava.corpora.test_sets import remove_test_set

    if _is_test_set(name, split, load_params(params)):
        return typer.echo("\n".join(remove_test_set(name, delete, params)))
    for line in remove(name, split.value if split else None, delete, params):
        typer.echo(line)


def _is_test_set(name: str, split: Split | None, params: Params) -> bool:
    """Whether the command means the benchmark of this name. Raises PllavaError for an unknown one."""
    from pllava.core.errors import PllavaError

    benchmarks = params.evaluate.benchmarks
    if split is Split.test and name not in benchmarks:
        raise PllavaError(f"no test set {name!r} in evaluate.benchmarks; there is: {', '.join(benchmarks) or 'none'}")
    corpora = {corpus.name for corpus in (*params.data.train, *params.data.validation)}
    return name in benchmarks and (split is Split.test or (split is None and name not in corpora))


def _refuse_for_test_set(kind: bool, weight: bool, max_rows: bool) -> None:
    from pllava.core.errors import PllavaError

    options = [option for option, given in (("--kind", kind), ("--weight", weight), ("--max-rows", max_rows)) if given]
    if options:
        raise PllavaError(
            f"a test set takes no {', '.join(options)}: all its questions are asked. For fewer: evaluate.benchmarks.<name>.limit"
        )
