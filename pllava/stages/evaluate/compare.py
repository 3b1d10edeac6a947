"""`pllava evaluate compare A B`: did B get better, on which tasks, and which questions flipped.

The two results must answer the same questions. The test is a paired bootstrap over videos, a task and on average; p-values of tasks are
also given after Holm's correction, since one of twenty is below 0.05 by luck.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pllava.artifacts.answers import FILE, AnswerRow, Answers
from pllava.benchmarks.scoring import values
from pllava.benchmarks.statistics import Interval, Over, bootstrap
from pllava.core.errors import PllavaError

RESAMPLES, SEED = 10_000, 0
SHOWN = 20  # flipped questions of each direction
SAME = ("media", "start", "end", "question", "candidates", "answer")


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
    task: str
    n: int
    a: float
    b: float
    difference: Interval  # B - A
    p_holm: float
    gained: int
    lost: int


@dataclass(frozen=True)
class Comparison:
    names: tuple[str, str]
    tasks: list[TaskComparison]
    average: Interval
    flips: list[Flip]
    missing: int  # questions that lack a judgement on one side; they are left out

    def text(self) -> str:
        """For a terminal and for Markdown."""
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
    """A and B: a results.jsonl or the folder that holds it; `model` of A, `other` (else the same) of B.

    Raises PllavaError when a file is not there, has no such model, or when the two did not answer the same questions.
    """
    sides = [_read(Path(path), name) for path, name in ((a, model), (b, other or model))]
    _check_same(sides[0], sides[1], (str(a), str(b)))
    pairs = [(sides[0][id_], sides[1][id_]) for id_ in sides[0]]
    rows, flips, missing = [], [], 0
    for before, after in pairs:
        found = values(before), values(after)
        both = [task for task in found[0] if found[0][task] is not None and found[1].get(task) is not None]
        missing += len(set(found[0]) | set(found[1])) - len(both)
        for name, row, side in (("A", before, found[0]), ("B", after, found[1])):
            rows.append(row | {"model": name, "scores": {task: {"value": side[task]} for task in both}})
        flips += list(_flips(before, after, both))
    # tasks that score the same answers (VCGBench) draw the same videos
    share_clips = any(len(row["scores"]) > 1 for row in rows)
    statistics = bootstrap(rows, RESAMPLES, SEED, share_clips)
    if not statistics.tasks:
        raise PllavaError(f"{a} and {b} have no question that both have a score for. Score them: pllava judge")
    differences = {task: statistics.difference("B", "A", [task]) for task in statistics.tasks}
    holm = _holm({task: found.p or 0.0 for task, found in differences.items()})
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
    """{"base": (adapted, other, adapted - other), "chance": ...}, paired over the same videos; only what the answers allow.

    There is no base without its answers, and no chance where a question has no candidates to guess from.
    """
    answers: dict[str, dict[str, AnswerRow]] = {"adapted": {}, "base": {}}
    for row in Answers(results):
        if row["model"] in answers:
            answers[row["model"]][row["id"]] = row
    others = {"chance": {id_: row for id_, row in answers["adapted"].items() if row["candidates"]}, "base": answers["base"]}
    compared = {}
    for other, theirs in others.items():
        if not theirs:
            continue
        if difference := set(theirs) ^ set(answers["adapted"]) if other == "base" else set():
            raise PllavaError(f"{results}: {min(difference)} was not answered by both base and adapted. Evaluate again: pllava evaluate")
        rows = []
        for id_, their in theirs.items():
            mine = answers["adapted"][id_]
            ours, against = values(mine), values(their) if other == "base" else dict.fromkeys(values(mine), 1 / len(mine["candidates"]))
            both = [task for task in ours if ours[task] is not None and against.get(task) is not None]
            for model, side in (("adapted", ours), (other, against)):
                rows.append(mine | {"model": model, "scores": {task: {"value": side[task]} for task in both}})
        statistics = bootstrap(rows, RESAMPLES, SEED, any(len(row["scores"]) > 1 for row in rows))
        if statistics.tasks:
            averages = [statistics.average(model, over=over).value for model in ("adapted", other)]
            compared[other] = (averages[0], averages[1], statistics.difference("adapted", other, over=over))
    return compared


def _read(path: Path, model: str) -> dict[str, AnswerRow]:
    """Question id -> row of one model."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise PllavaError(f"{file} is not there. Evaluate first: pllava evaluate; its results are in outputs/evaluate/<benchmark>/")
    rows = list(Answers(file))
    found = {row["id"]: row for row in rows if row["model"] == model}
    if not found:
        raise PllavaError(
            f"{file} has no answers of model {model!r}; it has: {', '.join(sorted({row['model'] for row in rows})) or 'none'}"
        )
    return found


def _check_same(a: dict[str, AnswerRow], b: dict[str, AnswerRow], names: tuple[str, str]) -> None:
    if only := sorted(set(a) ^ set(b)):
        raise PllavaError(
            f"{len(only)} questions are in one of {names[0]} and {names[1]} only, {only[0]} first. Evaluate both on one test set"
        )
    for id_, row in a.items():
        differs = [key for key in SAME if row.get(key) != b[id_].get(key)]
        if differs:
            raise PllavaError(f"{id_}: {', '.join(differs)} differ between {names[0]} and {names[1]}. Evaluate both on one test set")


def _flips(before: AnswerRow, after: AnswerRow, tasks: list[str]) -> Iterator[Flip]:
    for task in tasks:
        was, now = (_right(row, task) for row in (before, after))
        if was is not None and now is not None and was != now:
            yield Flip(task, before["id"], before["question"], before["answer"], before["prediction"], after["prediction"], gained=now)


def _right(row: AnswerRow, task: str) -> bool | None:
    return row["scores"][task].get("correct") if "scores" in row else row["correct"]


def _holm(p: dict[str, float]) -> dict[str, float]:
    """Holm (1979): the k-th smallest of m is multiplied by m - k + 1, and none gets smaller than the one before."""
    adjusted, highest = {}, 0.0
    for rank, task in enumerate(sorted(p, key=lambda task: p[task])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[task]))
        adjusted[task] = highest
    return adjusted


def _difference(found: Interval) -> str:
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
