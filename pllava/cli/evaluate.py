"""`pllava evaluate | judge | report | study`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pllava.cli.options import PARAMS, ParamsFile, say, settings_of
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.core.params import Params


commands = typer.Typer()


@commands.command()
def evaluate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BENCHMARK]... | compare A B", help="keys of evaluate.benchmarks  [default: all of them]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="first questions of each task only; goes to outputs/limited/")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="share the questions  [default: evaluate.processes]")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="score this one: models:/NAME@champion, models:/NAME/3, an adapter or base folder, a hub id; into outputs/measured/. "
            "compare: the model of both results  [default: adapted]",
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(metavar="FOLDER", help="with --model: adapter to put on it")] = None,
    lora_alpha: Annotated[float | None, typer.Option(min=0, help="with --model: LoRA strength  [default: the benchmark's]")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="with --model: where results go")] = None,
    other: Annotated[str | None, typer.Option(help="compare: the model of B, when another")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Stage: answer a benchmark's questions and score them.

    `pllava evaluate --model MODEL` scores any model, also one that was not trained here. `pllava evaluate compare A B` puts two results (a
    results.jsonl or its folder) side by side: a paired test a task, and which questions flipped.
    """
    if names and names[0] == "compare":
        from pllava.stages.evaluate.compare import compare

        if len(names) != 3:
            from pllava.artifacts.answers import kept

            raise PllavaError(f"compare takes two results, found {len(names) - 1}; {kept()}. Run: pllava evaluate compare A B")
        unused = {"--limit": limit, "--processes": processes, "--adapter": adapter, "--lora-alpha": lora_alpha, "--output": output}
        _refuse(unused, "evaluate compare, which only reads results")
        typer.echo(compare(names[1], names[2], model or "adapted", other or model).text())
        return
    settings = settings_of(params)
    chosen = _benchmarks(settings, names, params)
    _refuse({"--other": other}, "evaluate; it is for: pllava evaluate compare A B")
    if model is not None or adapter is not None:
        _refuse({"--processes": processes}, "evaluate --model, which answers in one process")
        from pllava.registry.measure import measure

        for path in measure(settings, model or settings.model.base, chosen, limit, lora_alpha, adapter, output):
            say(path)
        return
    _refuse({"--lora-alpha": lora_alpha, "--output": output}, "evaluate without --model; the stage's settings are in params.yaml")
    from pllava.stages.evaluate.run import evaluate

    for name in chosen:
        say(evaluate(settings, name, limit, processes))


@commands.command()
def judge(
    names: Annotated[list[str] | None, typer.Argument(metavar="[BENCHMARK]...", help="[default: all that need a judge]")] = None,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="answers  [default: those of the evaluation]")] = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="where scores go")] = Path("outputs/judged"),
    params: ParamsFile = PARAMS,
) -> None:
    """Score answers again, with the judge of the environment."""
    settings = settings_of(params)
    chosen = _benchmarks(settings, names, params)
    from pllava.stages.evaluate.judging import judge

    for path in judge(settings, chosen, results, output, skip_unjudged=not names):
        say(path)


@commands.command()
def report(params: ParamsFile = PARAMS) -> None:
    """Stage: write the tables and plots a person looks at."""
    from pllava.stages.report.run import report

    say(report(settings_of(params)))


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


def _refuse(options: Mapping[str, object], command: str) -> None:
    """Raise PllavaError for options that are set, because they have no effect on the command."""
    if used := [name for name, value in options.items() if value is not None]:
        raise PllavaError(f"{', '.join(used)} is no option of {command}")


def _benchmarks(settings: Params, names: list[str] | None, params: Path) -> list[str]:
    """The named benchmarks, or all without names. Raises PllavaError for a name that the params file lacks."""
    known = list(settings.evaluate.benchmarks)
    for name in names or ():
        if name not in known:
            raise PllavaError(f"{params} has no benchmark {name!r} under evaluate.benchmarks; it has: {', '.join(known)}")
    return names or known
