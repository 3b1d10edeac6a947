"""Examples of the report: a question, frames of its clip, and what each model answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pllava.artifacts import gallery_links as links
from pllava.core.errors import PllavaError
from pllava.stages.report.document import Document

EXAMPLES = 4  # questions of each kind
MODELS = {"adapted": "adapted", "single_frame": "adapted, one frame", "base": "base, not trained"}


def examples(document: Document, name: str, rows: Iterable[Mapping[str, Any]], root: Path, num_frames: int, frame_rule: str) -> None:
    """Add a few questions with frames of their clips: some that only all frames got right (without such: any right ones), and some wrong.

    rows: iterated twice; only the rows shown are kept in memory.
    """
    verdicts: dict[str, dict[str, bool | None]] = {}  # id -> model -> right or wrong
    task: dict[str, str] = {}
    for row in rows:
        if row["error"] is None:
            verdicts.setdefault(row["id"], {})[row["model"]] = row["correct"]
            task[row["id"]] = row["task"]
    right = [id_ for id_, verdict in verdicts.items() if verdict["adapted"]]
    helped = [id_ for id_ in right if not verdicts[id_]["single_frame"]]
    wrong = [id_ for id_, verdict in verdicts.items() if verdict["adapted"] is False]
    sorts = (
        (f"Right with all frames, wrong with one ({len(helped)} in all)", _spread(helped, task)),
        (f"Right ({len(right)} in all)", [] if helped else _spread(right, task)),
        (f"Wrong ({len(wrong)} in all)", _spread(wrong, task)),
    )
    shown: dict[str, dict[str, Mapping[str, Any]]] = {id_: {} for _, chosen in sorts for id_ in chosen}
    for row in rows:
        if row["id"] in shown:
            shown[row["id"]][row["model"]] = row
    for title, chosen in sorts:
        if chosen:
            document.heading(title)
        for id_ in chosen:
            _example(document, name, shown[id_], root, num_frames, frame_rule)


def _spread(ids: Sequence[str], task: Mapping[str, str]) -> list[str]:
    """Up to EXAMPLES ids: the first of each task, then the second of each task, and so on."""
    seen: dict[str, int] = {}
    ranked = []
    for index, id_ in enumerate(ids):
        seen[task[id_]] = seen.get(task[id_], 0) + 1
        ranked.append((seen[task[id_]], index))
    return [ids[index] for _, index in sorted(ranked)[:EXAMPLES]]


def _example(
    document: Document, name: str, question: Mapping[str, Mapping[str, Any]], root: Path, num_frames: int, frame_rule: str
) -> None:
    from pllava.artifacts.plots import filmstrip
    from pllava.video.readers import Readers

    row = question["adapted"]
    question_text = row["question"] if "second_question" not in row else f"{row['question']} / {row['second_question']}"
    document.heading(f"{row['task']}: {question_text}", level=3)
    try:
        video = Readers(1).read(root / row["media"], num_frames, frame_rule, row["start"], row["end"])
    except PllavaError as error:
        document.text(f"(no picture: {error})")
    else:
        document.image(f"{name}_{row['id'].replace('/', '_')}.png", filmstrip(video.frames), f"frames of {row['media']}")
    options = f"Options: {', '.join(row['candidates'])}. " if row["candidates"] else ""
    document.text(f"{options}Right: {row['answer']}")
    answers = [[title, _prediction(question[model]), _verdict(question[model])] for model, title in MODELS.items()]
    document.table(["model", "answer", ""], answers, numbers=False)
    document.link("In the gallery", links.sample(name, row["id"]))


def _prediction(row: Mapping[str, Any]) -> str:
    return row["prediction"] if "second_prediction" not in row else f"{row['prediction']} / {row['second_prediction']}"


def _verdict(row: Mapping[str, Any]) -> str:
    """Right or wrong, with the judge's scores where there are any."""
    scores = [f"{score['score']:g} of 5" for score in row.get("scores", {}).values() if score.get("score") is not None]
    return ", ".join(["not judged" if row["correct"] is None else "right" if row["correct"] else "wrong", *scores])
