"""Run a study: `study(params, "spatial")` trains and scores every point with every seed, and writes a table and a chart.

A finished point is a file in outputs/studies/<name>/points/, with a folder of its answers beside it. It is not run again while its
settings, data and base are the same, so a killed study goes on with the remaining points. Points that differ only in `evaluate` share one
training. All points use one feature store.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, read_json, write_json
from pllava.core.hashing import sha256_file, sha256_of
from pllava.core.overrides import applied
from pllava.core.params import Params
from pllava.core.validation import problems
from pllava.trials.specification import Study, read_study
from pllava.trials.study_report import BENCHMARK, results_of, write_report

STUDIES = Path("outputs/studies")


def study(params: Params, name: str, seeds: int | None = None, steps: int | None = None) -> Path:
    """Run the remaining points of a study and write its report. Returns its folder, outputs/studies/<name>.

    seeds: how many of the study's seeds to use; None: all. steps: training steps of each point instead of train.steps.

    Raises PllavaError when a point's settings are invalid, or the data is not prepared.
    """
    name, specification = read_study(name)
    shared = specification.shared | ({"train.steps": steps} if steps else {})
    chosen_seeds = specification.seeds[:seeds]
    # All settings are checked before the first training.
    settings = {
        (label, seed): _overridden(params, {**shared, **changes, "seed": seed})
        for seed in chosen_seeds
        for label, changes in specification.points.items()
    }
    if BENCHMARK not in params.evaluate.benchmarks:
        raise PllavaError(f"a study is scored on {BENCHMARK}, and params.yaml has no evaluate.benchmarks.{BENCHMARK}")
    folder = STUDIES / name
    remaining = {point: own for point, own in settings.items() if not _is_done(folder, point, own, specification)}
    print(f"study {name}: {len(settings) - len(remaining)} of {len(settings)} points are there, {len(remaining)} to run", file=sys.stderr)
    began, count = time.monotonic(), 0
    for group in _trainings(remaining):
        for point, rows, seconds in _run(group, specification):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            atomic_write_text(results_of(folder, point) / BENCHMARK / "results.jsonl", "".join(lines))
            answers = [{"task": row["task"], "clip": row["media"], "correct": bool(row["correct"])} for row in rows]
            write_json(_file(folder, point), {"key": _key(group[point], specification), "seconds": round(seconds, 1), "answers": answers})
            count += 1
            right = sum(answer["correct"] for answer in answers) / len(answers)
            seconds_left = (time.monotonic() - began) / count * (len(remaining) - count)
            print(
                f"{name} {point[0]} seed {point[1]}: {right:.1%} right, {seconds:.0f} s; about {seconds_left:.0f} s left", file=sys.stderr
            )
    write_report(folder, specification, {point: read_json(_file(folder, point)) for point in settings}, params.evaluate.bootstrap_resamples)
    return folder


def _overridden(params: Params, changes: dict[str, Any]) -> Params:
    """The params with changes, by dotted key. Raises PllavaError with every problem."""
    try:
        return applied(params, changes)
    except ValidationError as error:
        lines = [f"  {line}" for line in problems(error, Params)]
        raise PllavaError(f"{changes}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


Point = tuple[str, int]  # label, seed


def _file(folder: Path, point: Point) -> Path:
    return results_of(folder, point).with_name(results_of(folder, point).name + ".json")


def _is_done(folder: Path, point: Point, params: Params, specification: Study) -> bool:
    try:
        return read_json(_file(folder, point))["key"] == _key(params, specification)
    except (FileNotFoundError, PllavaError):
        return False


def _key(params: Params, specification: Study) -> str:
    """A hash of everything that a point's answers depend on: settings, data, base and templates."""
    from pllava.artifacts.manifest import PREPARED
    from pllava.chat.template import load_template
    from pllava.model import layouts as checkpoint
    from pllava.model.adapter import base_sha256

    files = sorted(PREPARED.glob("*.parquet"))
    if not files:
        raise PllavaError(f"{PREPARED} is not there. Write it: pllava prepare")
    values = [
        params.model_dump(mode="json", include={"seed", "model", "train", "evaluate"}),
        specification.questions_per_task,
        {file.name: sha256_file(file) for file in files},
        base_sha256(checkpoint.resolve(params.model.base)),
        [load_template(name).sha256 for name in (params.model.template, params.evaluate.benchmarks[BENCHMARK].template)],
    ]
    return sha256_of(values)


def _trainings(points: dict[Point, Params]) -> list[dict[Point, Params]]:
    """Groups of points that share a training: their params differ only in `evaluate`."""
    groups: dict[str, dict[Point, Params]] = {}
    for point, params in points.items():
        groups.setdefault(params.model_dump_json(exclude={"evaluate"}), {})[point] = params
    return list(groups.values())


def _run(group: dict[Point, Params], specification: Study) -> Iterator[tuple[Point, list[dict[str, Any]], float]]:
    """Train once and answer the questions for each point. Yields (point, scored rows as in results.jsonl, seconds).

    The seconds of the first point include the training.
    """
    from accelerate.state import AcceleratorState

    from pllava.core.signals import StopRequest
    from pllava.model.adapter import set_lora_alpha
    from pllava.stages.train.distributed import make_accelerator
    from pllava.stages.train.logger import TrainLogger
    from pllava.stages.train.loop import Trainer, be_deterministic
    from pllava.tracking.runs import Run

    began = time.monotonic()
    params = next(iter(group.values()))
    be_deterministic(params)
    AcceleratorState._reset_state()  # accelerate keeps the mixed_precision of the first training and refuses a second value
    trainer = Trainer(params, make_accelerator(params.train))
    with TrainLogger(Run(None, None), trainer.steps, True) as logger:
        trainer.train(logger, None, None, StopRequest())
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()  # without autocast, as evaluate answers
    for point, own in group.items():
        alpha = own.evaluate.benchmarks[BENCHMARK].lora_alpha
        alpha = own.evaluate.lora_alpha if alpha is None else alpha
        set_lora_alpha(model, own.train.lora.alpha if alpha is None else alpha)
        yield point, _answers(own, model, specification.questions_per_task), time.monotonic() - began
        began = time.monotonic()


def _answers(params: Params, model: Any, limit: int | None) -> list[dict[str, Any]]:
    """Answer and score the questions with the model. Returns the rows. limit: only the first ones of each task."""
    from pllava.benchmarks.judge.offline import OfflineJudge
    from pllava.benchmarks.scoring import score_rows
    from pllava.model.processing import PllavaProcessor
    from pllava.stages.evaluate.predict import Predictor, Variant
    from pllava.stages.evaluate.run import load_questions
    from pllava.stages.evaluate.units import units

    settings, size, frames = params.evaluate.benchmarks[BENCHMARK], params.evaluate.batch_size, params.model.num_frames
    processor = PllavaProcessor.from_pretrained(params.model.base, num_frames=frames, pooling_shape=params.model.pooling_shape)
    benchmark, samples, template = load_questions(params, BENCHMARK, limit)
    variants, tokens = [Variant("adapted", model)], settings.max_new_tokens
    predictor = Predictor(benchmark, variants, processor, template, frames, tokens, size, settings.root)
    rows = [row for unit in units(samples, size) for row in predictor.answer(unit)]
    return list(score_rows(rows, benchmark, OfflineJudge(), params.judge.max_missing))
