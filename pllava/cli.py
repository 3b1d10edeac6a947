"""The command line: `pllava --help`. One command for each thing the library does; each calls the same function the API and the stages call.

Nothing heavy is imported before the command that needs it, so `pllava --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pllava.data.corpora.commands import app as data_app
from pllava.errors import PllavaError

if TYPE_CHECKING:
    from pllava.params import Params

# What is started from here phones nobody and draws no progress bars of its own; a value set by the user wins.
QUIET = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

app = typer.Typer(
    name="pllava",
    help="PLLaVA: an image-language model taken to video. Settings come from params.yaml of the current folder.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would cost a third of the time of --help
)
recipe_app = typer.Typer(help="Whole params files to start from (list, show, use).", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="the settings")]
PARAMS = Path("params.yaml")
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="models:/NAME@champion, models:/NAME/3, an adapter folder, a base folder or a hub id"),
]
Adapter = Annotated[str | None, typer.Option(metavar="FOLDER", help="adapter to put on --model, in any published layout")]
Template = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="conversation template: a name or a .yaml file  [default: what the model was trained with]"),
]
LoraAlpha = Annotated[float | None, typer.Option(help="LoRA strength; the paper lowers it at inference  [default: evaluate.lora_alpha]")]
StoredAlpha = Annotated[float | None, typer.Option(help="LoRA strength  [default: what the adapter's folder says, else 32]")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="the answer is cut there")]


@app.callback()
def _main(debug: Annotated[bool, typer.Option("--debug", help="show a traceback for mistakes you can mend, too")] = False) -> None:
    if debug:
        os.environ["PLLAVA_DEBUG"] = "1"


def _params(path: Path) -> Params:
    from pllava.params import load_params

    return load_params(path)


def _say(text: object) -> None:
    typer.echo(text, err=True)


@app.command()
def render(params: ParamsFile = PARAMS) -> None:
    """Stage: write the built-in corpus of moving shapes."""
    from pllava.data.rendered import render

    _say(render(_params(params)))


@app.command()
def prepare(params: ParamsFile = PARAMS) -> None:
    """Stage: check annotations and media, write the manifests."""
    from pllava.data.prepare import prepare

    _say(prepare(_params(params)))


@app.command()
def features(params: ParamsFile = PARAMS) -> None:
    """Stage: run the frozen vision tower once over each distinct clip."""
    from pllava.data.features import features

    _say(features(_params(params)))


@app.command()
def train(params: ParamsFile = PARAMS) -> None:
    """Stage: train LoRA and the projector into one adapter folder."""
    from pllava.train.launch import train

    _say(train(_params(params)))


@app.command()
def evaluate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BENCHMARK]... | compare A B", help="keys of evaluate.benchmarks  [default: all of them]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="first questions of each task only; goes to outputs/limited/")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="share the questions  [default: evaluate.processes]")] = None,
    model: Annotated[str, typer.Option(help="compare: the model of both results")] = "adapted",
    other: Annotated[str | None, typer.Option(help="compare: the model of B, when another")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Stage: answer a benchmark's questions and score them.

    `pllava evaluate compare A B` puts two results (a results.jsonl or its folder) side by side: a paired test a task, and which
    questions flipped.
    """
    if names and names[0] == "compare":
        from pllava.evaluate.compare import compare

        if len(names) != 3:
            raise PllavaError(f"compare takes two results, found {len(names) - 1}. Run: pllava evaluate compare A B")
        typer.echo(compare(names[1], names[2], model, other or model).text())
        return
    settings = _params(params)
    chosen = _benchmarks(settings, names, params)
    from pllava.evaluate import evaluate

    for name in chosen:
        _say(evaluate(settings, name, limit, processes))


@app.command()
def judge(
    names: Annotated[list[str] | None, typer.Argument(metavar="[BENCHMARK]...", help="[default: all that need a judge]")] = None,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="answers  [default: those of the evaluation]")] = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="where scores go")] = Path("outputs/judged"),
    params: ParamsFile = PARAMS,
) -> None:
    """Score answers again, with the judge of the environment."""
    settings = _params(params)
    chosen = _benchmarks(settings, names, params)
    from pllava.evaluate.judging import judge

    for path in judge(settings, chosen, results, output, every=not names):
        _say(path)


def _benchmarks(settings: Params, names: list[str] | None, params: Path) -> list[str]:
    known = list(settings.evaluate.benchmarks)
    for name in names or ():
        if name not in known:
            raise PllavaError(f"{params} has no benchmark {name!r} under evaluate.benchmarks; it has: {', '.join(known)}")
    return names or known


@app.command()
def report(params: ParamsFile = PARAMS) -> None:
    """Stage: write the tables and plots a person looks at."""
    from pllava.evaluate import report

    _say(report(_params(params)))


@app.command()
def register(params: ParamsFile = PARAMS) -> None:
    """Make the trained adapter a new version in the registry."""
    from pllava.registry import register

    typer.echo(register(_params(params)))


Version = Annotated[int | None, typer.Option(min=1, help="version of the model  [default: the newest]")]


@app.command()
def gate(version: Version = None, params: ParamsFile = PARAMS) -> None:
    """Compare a version with the champion.

    Exit code 1 when it does not pass.
    """
    from pllava.registry import gate

    result = gate(_params(params), version=version)
    typer.echo(result.table)
    for reason in result.reasons:
        typer.echo(f"- {reason}")
    typer.echo("gate: passed" if result.passed else "gate: not passed")
    raise typer.Exit(0 if result.passed else 1)


@app.command()
def promote(
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="even when the gate says no; this is recorded")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why it is forced")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make a version that passed the gate the champion."""
    from pllava.registry import promote

    typer.echo(promote(_params(params), version=version, force=force, reason=reason))


@app.command()
def rollback(params: ParamsFile = PARAMS) -> None:
    """Make the previous champion the champion again."""
    from pllava.registry import rollback

    typer.echo(rollback(_params(params)))


@app.command()
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
    from pllava.app.ask import ask

    typer.echo(ask(_params(params), video, question, model, adapter, template, max_new_tokens, lora_alpha, say=_say))


@app.command()
def demo(
    model: ModelName = None,
    adapter: Adapter = None,
    template: Template = None,
    lora_alpha: LoraAlpha = None,
    host: Annotated[str | None, typer.Option(help="address to listen on  [default: deploy.host of the params]")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: deploy.port of the params]")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve the chat page in the foreground, until Ctrl-C."""
    from pllava.app.serve import serve

    serve(_params(params), model, adapter, template, lora_alpha, host, port, say=_say)


@app.command()
def deploy(params: ParamsFile = PARAMS) -> None:
    """Serve the champion in the background.

    It is asked one question about a held-out clip; when that fails, the previous champion serves again.
    """
    from pllava.app.deploy import deploy

    typer.echo(deploy(_params(params)).describe())


@app.command()
def stop() -> None:
    """Stop the demo that deploy started."""
    from pllava.app.deploy import stop_demo

    stopped = stop_demo()
    typer.echo(f"stopped the demo (process {stopped})" if stopped else "no demo of this project is running")


@app.command()
def version() -> None:
    """Print the versions of this package and its parts."""
    import platform
    from importlib.metadata import version as installed

    typer.echo(f"pllava {installed('pllava')}")
    for name in ("torch", "transformers", "peft", "accelerate", "decord2", "mlflow", "prefect", "dvc", "gradio"):
        typer.echo(f"  {name} {installed(name)}")
    typer.echo(f"  python {platform.python_version()}, {platform.system()} {platform.machine()}")


@app.command()
def doctor(params: ParamsFile = PARAMS) -> None:
    """Check what this machine has of what is needed, with reasons.

    Exit code 1 when something needed is missing.
    """
    from pllava.doctor import MISSING, describe, examine

    checks = examine(params)
    typer.echo(describe(checks))
    raise typer.Exit(1 if any(check.state == MISSING for check in checks) else 0)


@app.command()
def plan(
    recipe: Annotated[str | None, typer.Argument(help="a name of `pllava recipe list`  [default: params.yaml]")] = None,
    device: Annotated[float | None, typer.Option(min=0.01, metavar="GIB", help="memory of one GPU, or of the machine")] = None,
    text_tokens: Annotated[int | None, typer.Option(min=1, help="question, answer and template  [default: train.max_length]")] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="tokens generated")] = 128,
    questions: Annotated[int, typer.Option(min=1, help="videos answered at once")] = 1,
    beams: Annotated[int, typer.Option(min=1)] = 1,
    processes: Annotated[int, typer.Option(min=1, help="GPUs that share a training step")] = 1,
    bits: Annotated[int | None, typer.Option(help="8 or 4: the language model packed")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Say what a recipe needs: visual tokens and memory.

    Exit code 1 when inference or training does not fit --device.
    """
    from pllava import recipe as recipes
    from pllava.plan import describe, make_plan

    settings = recipes.load(recipe) if recipe else _params(params)
    made = make_plan(recipe or str(params), settings, device, text_tokens, new_tokens, questions, beams, processes, bits)
    typer.echo(describe(made))
    raise typer.Exit(0 if made.fits(made.inference) and made.fits(made.training) else 1)


@app.command()
def convert(
    source: Path,
    target: Path,
    base: Annotated[str | None, typer.Option(help="base of a published adapter, which doesn't name its own")] = None,
    lora_alpha: StoredAlpha = None,
) -> None:
    """Turn an adapter from the published layout into ours, or back."""
    from pllava.model.convert import convert

    typer.echo(convert(source, target, base, lora_alpha))


@app.command()
def compose(
    tower: str,
    language: str,
    target: Path,
    num_frames: Annotated[int, typer.Option(min=1, help="frames of a clip")] = 16,
    pooling_shape: Annotated[tuple[int, int, int], typer.Option(metavar="T H W", help="of the visual tokens")] = (16, 12, 12),
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
) -> None:
    """Make a base of a CLIP-like tower and a language model."""
    from pllava.model.compose import compose

    typer.echo(compose(tower, language, target, num_frames, pooling_shape, dtype=dtype))


@app.command()
def export(
    base: str,
    target: Path,
    adapter: Adapter = None,
    lora_alpha: StoredAlpha = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "bfloat16",
) -> None:
    """Write a folder that loads without an install of this project."""
    from pllava.model.export import export

    typer.echo(export(base, target, adapter=adapter, lora_alpha=lora_alpha, dtype=dtype))


@recipe_app.command("list")
def recipe_list() -> None:
    """Name each recipe with its model and size."""
    from pllava import recipe

    for line in recipe.overview():
        typer.echo(line)


@recipe_app.command("show")
def recipe_show(name: str) -> None:
    """Print one recipe."""
    from pllava import recipe

    typer.echo(recipe.read(name), nl=False)


@recipe_app.command("use")
def recipe_use(name: str, force: Annotated[bool, typer.Option("--force", help="overwrite settings of your own")] = False) -> None:
    """Check one recipe and write it to params.yaml."""
    from pllava import recipe

    typer.echo(recipe.use(name, force=force))


def main() -> None:
    """Entry point. A PllavaError is one message and exit code 1; anything else is a bug and keeps its traceback."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except PllavaError as error:
        if os.environ.get("PLLAVA_DEBUG"):
            raise
        _say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
