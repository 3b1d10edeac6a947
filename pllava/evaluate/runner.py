"""The evaluation stage: `pllava evaluate mvbench`.

Three models answer side by side: `base` (pooling, no training), `single_frame` (the adapted model, shown one frame) and `adapted`.
Writes outputs/evaluate/<benchmark>/results.jsonl and metrics/<benchmark>.json.
A killed run goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pllava.errors import PllavaError
from pllava.evaluate import metrics
from pllava.evaluate.journal import Journal
from pllava.evaluate.mvbench import Sample, format_question, load_samples
from pllava.files import atomic_dir, atomic_write_text, read_json, write_json

if TYPE_CHECKING:
    from pllava.chat.template import Template
    from pllava.evaluate.answering import Clip, Panel
    from pllava.params import Params

ADAPTER = Path("outputs/train/adapter")
RESULTS = Path("outputs/evaluate")
METRICS = Path("metrics")
JOURNALS = Path(".state/evaluate")  # outside the stage's outputs, which DVC deletes before it runs the stage
MODELS = ("base", "single_frame", "adapted")
SECONDS_BETWEEN_LINES = 10  # of progress, where there is no terminal
WIDTH = 100  # characters, where there is no terminal: the table of results in one piece


def evaluate(params: Params, benchmark: str = "mvbench") -> Path:
    """Answer every question of a benchmark with every model; gives the path of the metrics file.

    Raises PllavaError when there is no adapter, no benchmark data or no such template. A single unreadable video does not stop it.
    """
    from pllava.chat.template import load_template
    from pllava.evaluate.answering import FRAME_RULE, units

    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    settings = params.evaluate.benchmarks[benchmark]  # type: ignore[index]
    if not (ADAPTER / "manifest.json").is_file():
        raise PllavaError(f"{ADAPTER}/manifest.json is not there: no adapter is trained yet. Run: pllava train")
    samples = load_samples(settings.root, settings.limit)
    template = load_template(settings.template)
    lora_alpha = (
        read_json(ADAPTER / "adapter_config.json")["lora_alpha"] if params.evaluate.lora_alpha is None else params.evaluate.lora_alpha
    )
    _check_questions(samples, template)
    provenance = metrics.provenance(params, benchmark, samples, template, ADAPTER, lora_alpha, FRAME_RULE)

    plan = units(samples, params.evaluate.batch_size)
    key = hashlib.sha256(json.dumps([provenance, metrics.code_sha256()], sort_keys=True).encode()).hexdigest()[:16]
    journal = Journal(JOURNALS / benchmark / f"{key}.jsonl")
    remaining = [number for number in range(len(plan)) if number not in journal.done]
    if journal.done:
        console.print(f"{benchmark}: {len(journal.done)} of {len(plan)} units were answered before the last run ended; going on")
    if remaining:
        panel = _panel(params, template, settings.max_new_tokens, settings.root, console)
        for number in _progress(remaining, plan, benchmark, console):
            journal.add(number, panel.answer(plan[number]))

    rows = _ordered((row for answered in journal.done.values() for row in answered), samples)
    found = metrics.build(rows, provenance)
    with atomic_dir(RESULTS / benchmark) as folder:
        atomic_write_text(folder / "results.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    path = METRICS / f"{benchmark}.json"
    write_json(path, found)
    journal.remove()
    _show(found, console)
    _track(params, benchmark, found, path)
    return path


def _check_questions(samples: Sequence[Sample], template: Template) -> None:
    """Refuse a question that the template can't hold now, not an hour into the run."""
    for sample in samples:
        try:
            template.prompt_for(format_question(sample.question, sample.candidates))
        except PllavaError as error:
            raise PllavaError(f"{sample.id}: {error}") from None


def _panel(params: Params, template: Template, max_new_tokens: int, root: Path, console: Console) -> Panel:
    import pllava
    from pllava.evaluate.answering import Contestant, Panel

    model, processor = pllava.load(
        params.model.base,
        adapter=ADAPTER,
        lora_alpha=params.evaluate.lora_alpha,
        num_frames=params.model.num_frames,
        pooling_shape=params.model.pooling_shape,
        dtype=params.model.dtype,
        attn_implementation=params.model.attn_implementation,
    )
    contestants = [
        Contestant("base", model, within=model.disable_adapter),  # one set of weights in memory for all three
        Contestant("single_frame", model, single_frame=True),
        Contestant("adapted", model),
    ]
    console.print(f"device {model.device}, {model.dtype}, {params.model.attn_implementation} attention")
    return Panel(contestants, processor, template, params.model.num_frames, max_new_tokens, params.evaluate.batch_size, root)


def _ordered(rows: Iterable[dict[str, Any]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """In the order of the benchmark, the models of a question side by side."""
    place = {sample.id: index for index, sample in enumerate(samples)}
    return sorted(rows, key=lambda row: (place[row["id"]], MODELS.index(row["model"])))


def _progress(remaining: Sequence[int], plan: Sequence[Sequence[Clip]], benchmark: str, console: Console) -> Iterator[int]:
    """Unit numbers, with a bar in a terminal and a line now and then elsewhere."""
    sizes = {number: sum(len(clip.samples) for clip in plan[number]) for number in remaining}
    total, done = sum(sizes.values()), 0
    began = said = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{benchmark}, questions", total=total)
        for number in remaining:
            yield number
            done += sizes[number]
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and (now - said > SECONDS_BETWEEN_LINES or done == total):
                left = (now - began) / done * (total - done)
                console.print(f"{benchmark}: {done} of {total} questions, {now - began:.0f} s, {left:.0f} s left")
                said = now


def _show(found: dict[str, Any], console: Console) -> None:
    """The metrics as a table, in percent."""
    models = list(found["models"])
    title = f"{found['benchmark']}: accuracy in %, 95 % interval"
    table = Table("task", *models, "chance", "n", title=title, title_justify="left", box=SIMPLE_HEAD)
    for task, entry in found["models"][models[0]]["tasks"].items():
        cells = [found["models"][model]["tasks"][task] for model in models]
        table.add_row(task, *map(_cell, cells), f"{100 * entry['chance']:.0f}", str(entry["n"]))
    table.add_row("average", *(_cell(found["models"][model]["average"]) for model in models), style="bold")
    console.print(table)
    if unreadable := found["provenance"]["unreadable"]:
        console.print(
            f"{len(unreadable)} unreadable, counted as wrong: {', '.join(unreadable[:10])}{' ...' if len(unreadable) > 10 else ''}"
        )


def _cell(entry: dict[str, float]) -> str:
    return f"{100 * entry['value']:.1f} ({100 * entry['low']:.0f}-{100 * entry['high']:.0f})"


def _track(params: Params, benchmark: str, found: dict[str, Any], path: Path) -> None:
    """Into the MLflow run of the training: averages and task accuracies, and the files. MLflow being away stops nothing."""
    from pllava.registry.tracking import later_stage

    with later_stage(params) as run:
        for model, entry in found["models"].items():
            run.log_metrics({f"{benchmark}/{model}/average": entry["average"]["value"]})
            run.log_metrics({f"{benchmark}/{model}/{task}": cell["value"] for task, cell in entry["tasks"].items()})
        run.log_artifacts(path, "metrics")
        run.log_artifacts(RESULTS / benchmark, f"evaluate/{benchmark}")
