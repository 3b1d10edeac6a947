"""`pllava evaluate compare A B`: the difference B - A of each task and on average, and the questions that only one side answered rightly.

The two results must answer the same questions. The test is a paired bootstrap over videos. Each task also has a p-value with Holm's
correction, because without a correction one task in twenty is below 0.05 by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pllava.artifacts.answers import FILE, AnswerRow, Answers, kept
from pllava.benchmarks.scoring import values
from pllava.benchmarks.statistics import Interval, Over, bootstrap
from pllava.core.errors import PllavaError

RESAMPLES, SEED = 10_000, 0
SHOWN = 20  # flipped questions listed for each direction
SAME = ("media", "start", "end", "question", "second_question", "candidates", "answer")


@dataclass(frozen=True)
class Flip:
    """A question that one of the two answers rightly and the other wrongly."""

    task: str
    id: str
    question: str
    answer: str
    before: str
    after: str
    gained: bool


@dataclass(frozen=True)
class TaskComparison:
    """One task: scores of A and B in 0..1, and the paired difference."""

    task: str
    n: int  # questions
    a: float
    b: float
    difference: Interval  # B - A
    p_holm: float
    gained: int
    lost: int


@dataclass(frozen=True)
class Comparison:
    names: tuple[str, str]  # of A and B
    tasks: list[TaskComparison]
    average: Interval
    flips: list[Flip]
    missing: int  # scores that one side lacks; these are left out

    def text(self) -> str:
        """The comparison as Markdown, readable in a terminal."""
        lines = [f"A: {self.names[0]}", f"B: {self.names[1]}", "", "| task | n | A | B | B - A (95 %) | p | p, Holm | gained | lost |"]
        lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for task in self.tasks:
            cells = [str(task.n), f"{100 * task.a:.1f}", f"{100 * task.b:.1f}", _difference(task.difference), _p(task.difference.p)]
            lines.append(f"| {task.task} | {' | '.join(cells)} | {_p(task.p_holm)} | {task.gained} | {task.lost} |")
        gained, lost = (sum(flip.gained is kind for flip in self.flips) for kind in (True, False))
        average = f"{_difference(self.average)} | {_p(self.average.p)}"
        lines.append(f"| average of tasks | | | | {average} | | {gained} | {lost} |")
        if self.missing:
            lines += ["", f"{self.missing} scores are missing on one side and left out."]
        for kind, title in ((True, "Wrong in A, right in B"), (False, "Right in A, wrong in B")):
            chosen = [flip for flip in self.flips if flip.gained is kind]
            if chosen:
                lines += ["", f"{title} ({len(chosen)}):"]
                lines += [f"- {f.task}, {f.id}: {f.question!r} {f.answer!r}: {f.before!r} -> {f.after!r}" for f in chosen[:SHOWN]]
                lines += [f"- ... {len(chosen) - SHOWN} more"] if len(chosen) > SHOWN else []
        return "\n".join(lines)


def compare(a: str | Path, b: str | Path, model: str = "adapted", other: str | None = None) -> Comparison:
    """Compare the answers of `model` in A with those of `other` (default: `model`) in B.

    a, b: a results.jsonl or its folder.
    Raises PllavaError when a file is missing, has no such model, or when the two did not answer the same questions.
    """
    sides = [_read(Path(path), name) for path, name in ((a, model), (b, other or model))]
    _check_same(sides[0], sides[1], (str(a), str(b)))
    pairs = [(sides[0][id_], sides[1][id_]) for id_ in sides[0]]
    rows, flips, missing = [], [], 0
    for before, after in pairs:
        scores_a, scores_b = values(before), values(after)
        scored = [task for task in scores_a if scores_a[task] is not None and scores_b.get(task) is not None]
        missing += len(set(scores_a) | set(scores_b)) - len(scored)
        for name, row, scores in (("A", before, scores_a), ("B", after, scores_b)):
            rows.append(row | {"model": name, "scores": {task: {"value": scores[task]} for task in scored}})
        flips += list(_flips(before, after, scored))
    # where several tasks score one answer (VCGBench), each resample draws the same videos for all tasks
    share_clips = any(len(row["scores"]) > 1 for row in rows)
    statistics = bootstrap(rows, RESAMPLES, SEED, share_clips)
    if not statistics.tasks:
        raise PllavaError(f"{a} and {b} have no question that both have a score for. Score them: pllava judge")
    differences = {task: statistics.difference("B", "A", [task]) for task in statistics.tasks}
    holm = _holm({task: difference.p or 0.0 for task, difference in differences.items()})
    tasks = [
        TaskComparison(
            task,
            entry.n,
            float(entry.observed[statistics.models.index("A")]),
            float(entry.observed[statistics.models.index("B")]),
            differences[task],
            holm[task],
            sum(flip.task == task and flip.gained for flip in flips),
            sum(flip.task == task and not flip.gained for flip in flips),
        )
        for task, entry in statistics.tasks.items()
    ]
    names = (f"{a}, {model}", f"{b}, {other or model}")
    return Comparison(names, tasks, statistics.difference("B", "A"), flips, missing)


def against_base_and_chance(results: Path, over: Over = "tasks") -> dict[str, tuple[float, float, Interval]]:
    """{"base": (average of adapted, average of base, paired difference), "chance": ...}; averages in 0..1.

    "base" is absent when the results hold no answers of the base. "chance" covers only the questions with candidates and is absent
    when there are none. Raises PllavaError when base and adapted did not answer the same questions.
    """
    answers: dict[str, dict[str, AnswerRow]] = {"adapted": {}, "base": {}}
    for row in Answers(results):
        if row["model"] in answers:
            answers[row["model"]][row["id"]] = row
    others = {"chance": {id_: row for id_, row in answers["adapted"].items() if row["candidates"]}, "base": answers["base"]}
    compared = {}
    for other, other_rows in others.items():
        if not other_rows:
            continue
        if difference := set(other_rows) ^ set(answers["adapted"]) if other == "base" else set():
            raise PllavaError(f"{results}: {min(difference)} was not answered by both base and adapted. Evaluate again: pllava evaluate")
        rows = []
        for id_, other_row in other_rows.items():
            row = answers["adapted"][id_]
            scores = values(row)
            other_scores = values(other_row) if other == "base" else dict.fromkeys(scores, 1 / len(row["candidates"]))
            scored = [task for task in scores if scores[task] is not None and other_scores.get(task) is not None]
            for model, side in (("adapted", scores), (other, other_scores)):
                rows.append(row | {"model": model, "scores": {task: {"value": side[task]} for task in scored}})
        statistics = bootstrap(rows, RESAMPLES, SEED, any(len(scored_row["scores"]) > 1 for scored_row in rows))
        if statistics.tasks:
            averages = [statistics.average(model, over=over).value for model in ("adapted", other)]
            compared[other] = (averages[0], averages[1], statistics.difference("adapted", other, over=over))
    return compared


def _read(path: Path, model: str) -> dict[str, AnswerRow]:
    """{question id: row} of one model."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise PllavaError(f"{file} is not there; {kept()}. Evaluate first: pllava evaluate; results: outputs/evaluate/<benchmark>/")
    rows = list(Answers(file))
    by_id = {row["id"]: row for row in rows if row["model"] == model}
    if not by_id:
        raise PllavaError(
            f"{file} has no answers of model {model!r}; it has: {', '.join(sorted({row['model'] for row in rows})) or 'none'}"
        )
    return by_id


def _check_same(a: dict[str, AnswerRow], b: dict[str, AnswerRow], names: tuple[str, str]) -> None:
    """Raise PllavaError unless both sides have the same questions with the same content."""
    if only := sorted(set(a) ^ set(b)):
        raise PllavaError(
            f"{len(only)} questions are in one of {names[0]} and {names[1]} only, {only[0]} first. Evaluate both on one test set"
        )
    for id_, row in a.items():
        differs = [key for key in SAME if row.get(key) != b[id_].get(key)]
        if differs:
            raise PllavaError(f"{id_}: {', '.join(differs)} differ between {names[0]} and {names[1]}. Evaluate both on one test set")


def _flips(before: AnswerRow, after: AnswerRow, tasks: list[str]) -> Iterator[Flip]:
    """The tasks in which exactly one of the two rows is right."""
    for task in tasks:
        was, now = (_right(row, task) for row in (before, after))
        if was is not None and now is not None and was != now:
            yield Flip(task, before["id"], before["question"], before["answer"], before["prediction"], after["prediction"], gained=now)


def _right(row: AnswerRow, task: str) -> bool | None:
    return row["scores"][task].get("correct") if "scores" in row else row["correct"]


def _holm(p: dict[str, float]) -> dict[str, float]:
    """Holm (1979): multiply the k-th smallest of m p-values by m - k + 1, cap it at 1, and keep the order of the p-values."""
    adjusted, highest = {}, 0.0
    for rank, task in enumerate(sorted(p, key=lambda task: p[task])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[task]))
        adjusted[task] = highest
    return adjusted


def _difference(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
