"""`pllava plan | convert | compose | export`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pllava.cli.options import PARAMS, Adapter, ParamsFile, StoredAlpha, settings_of, settings_of_recipe

commands = typer.Typer()


@commands.command()
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
    from pllava.model.plan import describe, make_plan

    settings = settings_of_recipe(recipe) if recipe else settings_of(params)
    made = make_plan(recipe or str(params), settings, device, text_tokens, new_tokens, questions, beams, processes, bits)
    typer.echo(describe(made))
    raise typer.Exit(0 if made.fits(made.inference) and made.fits(made.training) else 1)


@commands.command()
def convert(
    source: Path,
    target: Path,
    base: Annotated[str | None, typer.Option(help="base of a published adapter, which doesn't name its own")] = None,
    lora_alpha: StoredAlpha = None,
) -> None:
    """Turn an adapter from the published layout into ours, or back."""
    from pllava.model.convert import convert

    typer.echo(convert(source, target, base, lora_alpha))


@commands.command()
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


@commands.command()
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
