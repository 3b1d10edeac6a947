"""The report stage: `pllava report`. Tables and plots for a person, from the evaluation's results and the training's history.

Writes outputs/report/: report.md with PNG files, report.html (one file, no outside request), accuracy.json and loss.json for `dvc plots`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts import gallery_links as links
from pllava.artifacts.answers import FILE, RESULTS, Answers
from pllava.artifacts.metrics import METRICS, Metrics, read_metrics
from pllava.artifacts.training import read_history
from pllava.benchmarks.benchmark import Benchmark, load_benchmark
from pllava.benchmarks.mvbench import STILL_TASKS
from pllava.benchmarks.statistics import Bootstrap, Interval, bootstrap
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, atomic_write_bytes, atomic_write_text, write_json
from pllava.stages.report import paper
from pllava.stages.report.document import Document
from pllava.stages.report.examples import MODELS, examples

if TYPE_CHECKING:
    from pllava.core.params import Params

REPORT = Path("outputs/report")


def report(params: Params) -> Path:
    """Write the report of every benchmark in params; returns the path of report.md. Raises PllavaError without results."""
    document = Document("Evaluation report")
    history = read_history()
    gains: dict[str, Interval] = {}
    accuracies: list[dict[str, Any]] = []
    for benchmark, settings in params.evaluate.benchmarks.items():
        metrics = _read_metrics(benchmark)
        rows = Answers(RESULTS / benchmark / FILE)
        kind = load_benchmark(benchmark, settings.source)
        statistics = bootstrap(rows, metrics["provenance"]["bootstrap_resamples"], metrics["provenance"]["seed"], kind.share_clips)
        document.heading(benchmark)
        if statistics.tasks:
            gain = _numbers(document, benchmark, metrics, statistics, kind)
            gains |= {benchmark: gain} if gain else {}
            _beside_the_paper(document, benchmark, metrics, rendered=settings.root.is_relative_to(params.rendered.root))
        else:
            document.text(f"{sum(1 for _ in rows)} answers, none of them with a truth to be scored by.")
        document.link("All questions and answers", links.questions(benchmark), f" in the gallery. {links.HOW_TO_OPEN}")
        if len(metrics["models"]) > 1:
            document.link("Where the models differ", links.comparison(benchmark, "base", "adapted"), ": gained and lost, by task.")
        accuracies += _accuracies(benchmark, metrics)
        if history:
            _training(document, history)
            history = []
        examples(document, benchmark, rows, settings.root, params.model.num_frames, kind.frame_rule)
        _provenance(document, metrics["provenance"])

    with atomic_dir(REPORT) as folder:
        for name, png in document.images.items():
            atomic_write_bytes(folder / name, png)
        atomic_write_text(folder / "report.md", document.markdown())
        atomic_write_text(folder / "report.html", document.html())
        write_json(folder / "accuracy.json", accuracies)
        write_json(folder / "loss.json", read_history())
    _track(params, gains)
    return REPORT / "report.md"


def temporal_tasks(statistics: Bootstrap) -> list[str]:
    """The tasks whose questions one frame can't answer."""
    return [task for task in statistics.tasks if task not in STILL_TASKS]


def _numbers(document: Document, benchmark: str, metrics: Metrics, statistics: Bootstrap, kind: Benchmark) -> Interval | None:
    """Headline, temporal gain, table and chart of one benchmark; returns the gain of all frames over one, None without temporal tasks."""
    from pllava.artifacts.plots import accuracy_by_task

    models = {name: title for name, title in MODELS.items() if name in metrics["models"]}
    tasks = metrics["models"]["adapted"]["tasks"]
    chance = sum(cell["chance"] for cell in tasks.values()) / len(tasks)
    average = {name: metrics["models"][name]["average"] for name in models}
    questions = sum(cell["n"] for cell in tasks.values())
    judge = metrics["provenance"].get("judge")
    if judge:
        document.text(
            f"Scored by the {judge['name']}: the adapted model gets {_percent(average['adapted'])}, from one frame of each clip "
            f"{_percent(average['single_frame'])}, the base without training {_percent(average['base'])}. {judge['measure'].capitalize()}.",
            lead=True,
        )
    else:
        document.text(
            f"The adapted model answers {_percent(average['adapted'])} right, from one frame of each clip "
            f"{_percent(average['single_frame'])}, the base without training {_percent(average['base'])}; "
            f"a blind guess {100 * chance:.1f} %.",
            lead=True,
        )
    over = kind.average_over
    document.text(
        f"Mean over {f'{len(tasks)} tasks' if over == 'tasks' else 'questions'}, {questions} questions; "
        "in brackets the 95 % bootstrap interval over videos."
    )
    gain = None
    if temporal := temporal_tasks(statistics):
        gain = statistics.difference("adapted", "single_frame", temporal, over)
        with_all, with_one = (statistics.average(model, temporal, over).as_dict() for model in ("adapted", "single_frame"))
        which = "All frames or one" if judge else f"Does it use time? On the {len(temporal)} tasks that one frame can't settle"
        document.text(
            f"{which}: {_percent(with_all)} with all frames, {_percent(with_one)} with one. "
            f"Difference {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, paired; {_p(gain)})."
        )
    rows = [
        [task, *(_percent(metrics["models"][name]["tasks"][task]) for name in models), f"{100 * cell['chance']:.0f}", str(cell["n"])]
        for task, cell in tasks.items()
    ]
    rows.append(["average", *(_percent(average[name]) for name in models), f"{100 * chance:.1f}", str(questions)])
    if missing := sum(cell.get("missing", 0) for model in models for cell in metrics["models"][model]["tasks"].values()):
        document.text(f"{missing} judgements failed; they are in no average.")
    document.table(["task", *models.values(), "chance", "questions"], rows, total=True)
    title = f"{benchmark}: {judge['name'] if judge else 'accuracy'} by task, 95 % intervals"
    document.image(f"accuracy_{benchmark}.png", accuracy_by_task(metrics["models"], title), "scores by task")
    if any(cell["value"] in (0, 1) for name in models for cell in metrics["models"][name]["tasks"].values()):
        document.text(
            "Where every answer is right (or wrong), resampling can't vary and the interval has no width. "
            "Read it as about 3 / n: with 50 questions the true accuracy may still be 94 %."
        )
    if unreadable := metrics["provenance"]["unreadable"]:
        document.text(f"{len(unreadable)} clips could not be read; their questions count as wrong: {', '.join(unreadable)}")
    return gain


def _beside_the_paper(document: Document, benchmark: str, metrics: Metrics, rendered: bool) -> None:
    """A table of this run's models and the paper's, with the reasons why the scores are not comparable."""
    columns = paper.columns(benchmark)
    if not columns:
        return
    document.heading("Beside the paper", level=3)
    judge = metrics["provenance"].get("judge") or {}
    if rendered:
        document.text(
            "The clips and questions of this run are rendered here, in the layout of the benchmark; the paper's models were measured on "
            "the benchmark itself. The rows are not comparable."
        )
    if judge.get("kind") == "offline":
        document.text("This run was scored offline, by words; the paper's numbers are a judge's. The rows are not comparable.")
    if metrics["provenance"].get("limit"):
        document.text(f"This run answered the first {metrics['provenance']['limit']} questions of each task only.")
    mine = [[f"{title}, this run", *paper.own_row(benchmark, metrics["models"][name])] for name, title in MODELS.items()]
    document.table(["model", *columns], [*mine, *paper.rows(benchmark)])


def _training(document: Document, history: Sequence[dict[str, Any]]) -> None:
    from pllava.artifacts.plots import loss_curve

    document.heading("Training")
    document.image("loss.png", loss_curve(history, "Loss by step"), "training and validation loss, learning rate")


def _provenance(document: Document, provenance: dict[str, Any]) -> None:
    document.heading("What these numbers depend on")
    shown = {name: value for name, value in provenance.items() if name != "unreadable"}
    document.table(
        ["", ""], [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in shown.items()], numbers=False
    )


def _accuracies(benchmark: str, metrics: Metrics) -> list[dict[str, Any]]:
    """One row for each model and task, for `dvc plots`."""
    return [
        {"benchmark": benchmark, "model": model, "task": task, **cell}
        for model, entry in metrics["models"].items()
        for task, cell in entry["tasks"].items()
    ]


def _read_metrics(benchmark: str) -> Metrics:
    path = METRICS / f"{benchmark}.json"
    for needed in (path, RESULTS / benchmark / FILE):
        if not needed.is_file():
            raise PllavaError(f"{needed} is not there. Evaluate first: pllava evaluate {benchmark}")
    return read_metrics(path)


def _percent(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return "-"
    return f"{100 * cell['value']:.1f} % ({100 * cell['low']:.0f}-{100 * cell['high']:.0f})"


def _p(gain: Interval) -> str:
    return "p < 0.001" if gain.p is not None and gain.p < 0.001 else f"p = {gain.p:.3f}"


def _track(params: Params, gains: dict[str, Interval]) -> None:
    from pllava.tracking.runs import later_stage

    with later_stage(params) as run:
        for benchmark, gain in gains.items():
            run.log_metrics({f"{benchmark}/temporal_gain": gain.value, f"{benchmark}/temporal_gain_low": gain.low})
        run.log_artifacts(REPORT, "report")
