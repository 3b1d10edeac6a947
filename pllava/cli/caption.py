"""`pllava caption`: many videos to one file, and long ones scene by scene. Nothing heavy is imported before the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pllava.cli.options import PARAMS, Adapter, LoraAlpha, MaxNewTokens, ModelName, ParamsFile, Template, say, settings_anywhere

commands = typer.Typer()


@commands.command()
def caption(
    paths: Annotated[list[str] | None, typer.Argument(help="videos, folders, globs in quotes, @LIST (a source a line)")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: captions.jsonl; with --dense and one video, stdout]")] = None,
    list_file: Annotated[Path | None, typer.Option("--list", metavar="FILE", help="as @FILE")] = None,
    format: Annotated[
        str | None, typer.Option(help="jsonl, parquet or csv; of one dense video vtt, srt or json  [default: by --out]")
    ] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="[default: Describe the video in detail.]")] = None,
    model: ModelName = None,
    adapter: Adapter = None,
    template: Template = None,
    max_new_tokens: MaxNewTokens = 100,
    lora_alpha: LoraAlpha = None,
    batch_size: Annotated[int, typer.Option(min=1, help="videos, or scenes, captioned at once")] = 8,
    readers: Annotated[int, typer.Option(min=1, help="processes that decode ahead")] = 2,
    time_limit: Annotated[float, typer.Option(min=0.001, help="seconds to read a clip; then it is given up")] = 120.0,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="max_bytes, max_pixels, max_frames, max_seconds or max_decoded_bytes")
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="a caption for each scene, with its times")] = False,
    windows: Annotated[bool, typer.Option("--windows", help="dense: parts of --max-seconds instead of scenes")] = False,
    threshold: Annotated[float | None, typer.Option(help="dense: least change that is a cut  [default: 8]")] = None,
    min_seconds: Annotated[float | None, typer.Option(help="dense: a shorter scene joins its neighbour  [default: 1]")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="dense: a longer scene is split  [default: 30]")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="dense: ask about the whole video, too")] = False,
    subtitles: Annotated[Path | None, typer.Option(metavar="FOLDER", help="dense: a .vtt file a video, too")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what an earlier run captioned")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Caption any number of videos, or long ones scene by scene.

    The same command again goes on where a killed one was, and adds what is new. Exit code 1 when a video failed.
    """
    from pllava.apps.caption.job import make_job
    from pllava.chat.caption.limits import parse_limits
    from pllava.core.errors import PllavaError

    sources = [*(paths or ()), *([f"@{list_file}"] if list_file else ())]
    if not sources:
        raise PllavaError("nothing to caption; for example: pllava caption videos/ --out captions.jsonl")
    scene_options: dict[str, Any] = {"threshold": threshold, "min_seconds": min_seconds, "max_seconds": max_seconds}
    scenes = {name: value for name, value in scene_options.items() if value is not None}
    if not dense and (windows or scenes or summary or subtitles):
        raise PllavaError("--windows, --threshold, --min-seconds, --max-seconds, --summary and --subtitles belong to --dense")
    if windows:
        scenes |= {"detect": False, "min_seconds": min_seconds or 0.0}
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "lora_alpha": lora_alpha,
        "batch_size": batch_size,
        "readers": readers,
        "time_limit": time_limit,
        "limits": parse_limits(limit or ()),
        "dense": {**scenes, "summary": summary} if dense else None,
    }
    if question is not None:
        settings["question"] = question
    job, name = make_job(settings_anywhere(params), model, adapter, template, **settings)
    say(f"model: {name}")
    from pllava.apps.caption.single import caption_one, is_one

    if dense and is_one(sources, out, format, subtitles):
        caption_one(sources[0], out, format, job, say)
        return
    from pllava.apps.caption.folder import caption_all

    done = caption_all(sources, out or Path("captions.jsonl"), job, format=format, subtitles=subtitles, fresh=fresh)
    say(done)
    raise typer.Exit(1 if done.failed else 0)
