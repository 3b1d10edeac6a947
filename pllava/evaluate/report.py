"""The report stage: `pllava report`. Tables and plots a person looks at, from the evaluation's results and the training's history.

Writes outputs/report/: report.md with PNG files, report.html (one file, no outside request), accuracy.json and loss.json for `dvc plots`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.errors import PllavaError
from pllava.evaluate.document import Document
from pllava.evaluate.mvbench import STILL_TASKS
from pllava.evaluate.runner import METRICS, RESULTS
from pllava.evaluate.statistics import Bootstrap, Interval, bootstrap
from pllava.files import atomic_dir, atomic_write_bytes, atomic_write_text, read_json, write_json

if TYPE_CHECKING:
    from pllava.params import Params

HISTORY = Path("outputs/train/history.jsonl")
REPORT = Path("outputs/report")
EXAMPLES = 4  # of each sort
MODELS = {"adapted": "adapted", "single_frame": "adapted, one frame", "base": "base, not trained"}


def report(params: Params) -> Path:
    """Write the report of every benchmark in params; gives the path of report.md. Raises PllavaError when a benchmark has no results."""
    document = Document("Evaluation report")
    history = _lines(HISTORY) if HISTORY.is_file() else []
    gains: dict[str, Interval] = {}
    accuracies: list[dict[str, Any]] = []
    for benchmark, settings in params.evaluate.benchmarks.items():
        found = _read_metrics(benchmark)
        rows = _lines(RESULTS / benchmark / "results.jsonl")
        statistics = bootstrap(rows, found["provenance"]["bootstrap_resamples"], found["provenance"]["seed"])
        gains[benchmark] = _numbers(document, benchmark, found, statistics)
        accuracies += _accuracies(benchmark, found)
        if history:
            _training(document, history)
            history = []
        _examples(document, benchmark, rows, settings.root, params.model.num_frames)
        _provenance(document, found["provenance"])

    with atomic_dir(REPORT) as folder:
        for name, png in document.images.items():
            atomic_write_bytes(folder / name, png)
        atomic_write_text(folder / "report.md", document.markdown())
        atomic_write_text(folder / "report.html", document.html())
        write_json(folder / "accuracy.json", accuracies)
        write_json(folder / "loss.json", _lines(HISTORY) if HISTORY.is_file() else [])
    _track(params, gains)
    return REPORT / "report.md"


def temporal_tasks(statistics: Bootstrap) -> list[str]:
    """The tasks that one frame can't settle."""
    return [task for task in statistics.tasks if task not in STILL_TASKS]


def _numbers(document: Document, benchmark: str, found: dict[str, Any], statistics: Bootstrap) -> Interval:
    """Headline, temporal gain, table and chart of one benchmark; gives the gain of time over one frame."""
    from pllava.evaluate.plots import accuracy_by_task

    models = {name: title for name, title in MODELS.items() if name in found["models"]}
    tasks = found["models"]["adapted"]["tasks"]
    chance = sum(cell["chance"] for cell in tasks.values()) / len(tasks)
    average = {name: found["models"][name]["average"] for name in models}
    questions = sum(cell["n"] for cell in tasks.values())
    document.heading(benchmark)
    document.text(
        f"The adapted model answers {_percent(average['adapted'])} right, from one frame of each clip "
        f"{_percent(average['single_frame'])}, the base without training {_percent(average['base'])}; a blind guess {100 * chance:.1f} %.",
        lead=True,
    )
    document.text(f"Mean accuracy over {len(tasks)} tasks, {questions} questions; in brackets the 95 % bootstrap interval over videos.")
    temporal = temporal_tasks(statistics)
    gain = statistics.difference("adapted", "single_frame", temporal)
    with_all, with_one = (statistics.average(model, temporal).as_dict() for model in ("adapted", "single_frame"))
    document.text(
        f"Does it use time? On the {len(temporal)} tasks that one frame can't settle: {_percent(with_all)} with all frames, "
        f"{_percent(with_one)} with one. "
        f"Difference {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, paired; {_p(gain)})."
    )
    rows = [
        [task, *(_percent(found["models"][name]["tasks"][task]) for name in models), f"{100 * cell['chance']:.0f}", str(cell["n"])]
        for task, cell in tasks.items()
    ]
    rows.append(["average", *(_percent(average[name]) for name in models), f"{100 * chance:.1f}", str(questions)])
    document.table(["task", *models.values(), "chance", "questions"], rows, total=True)
    document.image(
        f"accuracy_{benchmark}.png", accuracy_by_task(found["models"], f"{benchmark}: accuracy by task, 95 % intervals"), "accuracy by task"
    )
    if any(cell["value"] in (0, 1) for name in models for cell in found["models"][name]["tasks"].values()):
        document.text(
            "Where every answer is right (or wrong), resampling can't vary and the interval has no width. "
            "Read it as about 3 / n: with 50 questions the true accuracy may still be 94 %."
        )
    if unreadable := found["provenance"]["unreadable"]:
        document.text(f"{len(unreadable)} clips could not be read; their questions count as wrong: {', '.join(unreadable)}")
    return gain


def _training(document: Document, history: Sequence[dict[str, Any]]) -> None:
    from pllava.evaluate.plots import loss_curve

    document.heading("Training")
    document.image("loss.png", loss_curve(history, "Loss by step"), "training and validation loss, learning rate")


def _examples(document: Document, benchmark: str, rows: Sequence[dict[str, Any]], root: Path, num_frames: int) -> None:
    """A few questions with their clips: where all frames helped, and where they did not."""
    questions: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["error"] is None:
            questions.setdefault(row["id"], {})[row["model"]] = row
    helped = [q for q in questions.values() if q["adapted"]["correct"] and not q["single_frame"]["correct"]]
    wrong = [q for q in questions.values() if not q["adapted"]["correct"]]
    for title, chosen in (
        (f"Right with all frames, wrong with one ({len(helped)} in all)", helped),
        (f"Wrong ({len(wrong)} in all)", wrong),
    ):
        if not chosen:
            continue
        document.heading(title)
        for question in _spread(chosen):
            _example(document, benchmark, question, root, num_frames)


def _spread(questions: Sequence[dict[str, dict[str, Any]]]) -> Iterator[dict[str, dict[str, Any]]]:
    """The first of each task, then the second of each, up to EXAMPLES."""
    seen: dict[str, int] = {}
    ranked = []
    for place, question in enumerate(questions):
        task = question["adapted"]["task"]
        seen[task] = seen.get(task, 0) + 1
        ranked.append((seen[task], place))
    yield from (questions[place] for _, place in sorted(ranked)[:EXAMPLES])


def _example(document: Document, benchmark: str, question: dict[str, dict[str, Any]], root: Path, num_frames: int) -> None:
    from pllava.evaluate.plots import filmstrip
    from pllava.video.reader import read_video

    row = question["adapted"]
    document.heading(f"{row['task']}: {row['question']}", level=3)
    try:
        video = read_video(root / row["media"], num_frames, "eval", row["start"], row["end"])
    except PllavaError as error:
        document.text(f"(no picture: {error})")
    else:
        document.image(f"{benchmark}_{row['id'].replace('/', '_')}.png", filmstrip(video.frames), f"frames of {row['media']}")
    answers = [[title, question[name]["prediction"], "right" if question[name]["correct"] else "wrong"] for name, title in MODELS.items()]
    document.text(f"Options: {', '.join(row['candidates'])}. Right: {row['answer']}")
    document.table(["model", "answer", ""], answers, numbers=False)


def _provenance(document: Document, provenance: dict[str, Any]) -> None:
    document.heading("What these numbers depend on")
    shown = {name: value for name, value in provenance.items() if name != "unreadable"}
    document.table(
        ["", ""], [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in shown.items()], numbers=False
    )


def _accuracies(benchmark: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model and task, for `dvc plots`."""
    return [
        {"benchmark": benchmark, "model": model, "task": task, **cell}
        for model, entry in found["models"].items()
        for task, cell in entry["tasks"].items()
    ]


def _read_metrics(benchmark: str) -> dict[str, Any]:
    path = METRICS / f"{benchmark}.json"
    for needed in (path, RESULTS / benchmark / "results.jsonl"):
        if not needed.is_file():
            raise PllavaError(f"{needed} is not there. Evaluate first: pllava evaluate {benchmark}")
    return read_json(path)


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return [json.loads(line) for line in file]


def _percent(cell: dict[str, float]) -> str:
    return f"{100 * cell['value']:.1f} % ({100 * cell['low']:.0f}-{100 * cell['high']:.0f})"


def _p(gain: Interval) -> str:
    return "p < 0.001" if gain.p is not None and gain.p < 0.001 else f"p = {gain.p:.3f}"


def _track(params: Params, gains: dict[str, Interval]) -> None:
    from pllava.registry.tracking import later_stage

    with later_stage(params) as run:
        for benchmark, gain in gains.items():
            run.log_metrics({f"{benchmark}/temporal_gain": gain.value, f"{benchmark}/temporal_gain_low": gain.low})
        run.log_artifacts(REPORT, "report")
