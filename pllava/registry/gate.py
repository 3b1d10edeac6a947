"""`pllava gate`: may this version become the champion? It fails closed: a version with missing evidence does not pass.

Two versions are compared only on the same test set, asked with the same template and scored by the same judge. For each benchmark:
1. the version's scores were measured on its own adapter, every score is a number, and few judgements are missing;
2. the version was not rolled back: only a person brings it back (`pllava rollback` again, or `pllava promote --force`);
3. the version is not worse than its base (by more than gate.margin, or in the paired test) and not worse than a blind guess;
4. without a champion, the version's average is at least gate.min_average;
5. with a champion, the version's average is at least the champion's average less gate.margin;
6. with a champion, the version is not worse in a paired test over the same questions (bootstrap over videos, p < gate.significance,
   two-sided).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.registry.card import title
from pllava.registry.measurements import Measurement, find
from pllava.registry.versions import CHAMPION, ROLLED_BACK, by_alias, pick
from pllava.tracking.store import client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from pllava.benchmarks.statistics import Interval
    from pllava.stages.evaluate.compare import Comparison

OUTCOME = "***"  # line of a version's description: after it comes what registration wrote
SAME = ("data_sha256", "template_sha256")
# (version, benchmark, metrics whose conditions the measurement must share; None: as registered) -> measurement
Look = Callable[["ModelVersion", str, dict[str, Any] | None], Measurement]


@dataclass(frozen=True)
class GateResult:
    """The outcome of the gate. `reasons`: why the version failed, or why it passed. `table`: Markdown."""

    passed: bool
    reasons: list[str]
    table: str
    version: int
    champion: int | None
    differences: dict[str, str] = field(default_factory=dict)  # benchmark -> "+0.4 (-1.0 to +1.8), p 0.61", percent


def gate(params: Params, version: int | None = None) -> GateResult:
    """Compare a version (None: the candidate) with the champion and record the outcome in the version's tags and description.

    When the champion itself passes, its tags stay as they were at its promotion.
    """
    connection = client()
    name = params.registry.model_name
    candidate = pick(connection, name, version)
    champion = by_alias(connection, name, CHAMPION)
    with tempfile.TemporaryDirectory() as folder:
        result = decide(params, candidate, champion, lambda of, named, like: find(connection, of, named, like, Path(folder)))
    if result.champion == result.version and result.passed:
        return result
    outcome = {
        "gate": "passed" if result.passed else "failed",
        "gate.against": str(result.champion or "none"),
        "gate.reasons": "\n".join(result.reasons),
    }
    for key, value in outcome.items():
        connection.set_model_version_tag(name, str(result.version), key, value)
    connection.update_model_version(name, str(result.version), described(candidate.description or "", result))
    return result


def described(text: str, result: GateResult) -> str:
    """The version's description with the outcome of the gate before it, instead of an earlier outcome."""
    from pllava.registry.register import DESCRIPTION

    reasons = "\n".join(f"- {reason}" for reason in result.reasons)
    verdict = (
        f"Gate: {'passed' if result.passed else 'failed'}, against {f'version {result.champion}' if result.champion else 'no champion'}"
    )
    return f"{verdict}\n\n{result.table}\n\n{reasons}\n\n{OUTCOME}\n\n{text.partition(OUTCOME)[2].lstrip() or text}"[:DESCRIPTION]


def decide(params: Params, candidate: ModelVersion, champion: ModelVersion | None, look: Look) -> GateResult:
    """Apply the rules of this module to the measurements that `look` returns. Writes nothing."""
    number, current = int(candidate.version), int(champion.version) if champion else None
    failures: list[str] = []
    grounds: list[str] = []
    rows: list[str] = []
    differences: dict[str, str] = {}
    if current != number and (when := candidate.tags.get(ROLLED_BACK)):
        failures.append(
            f"version {number} was rolled back at {when}. To have it again: pllava rollback, or pllava promote --version {number} --force"
        )
    if not params.evaluate.benchmarks:
        failures.append("evaluate.benchmarks names no benchmark, so nothing is known. Name one in params.yaml")
    for benchmark in params.evaluate.benchmarks:
        measured = look(candidate, benchmark, None)
        rival = look(champion, benchmark, measured.metrics) if champion and current != number else None
        mine, theirs = measured.metrics, rival.metrics if rival else measured.metrics if current == number else None
        problems = _unusable(f"version {number}", mine, candidate.tags.get("adapter_sha256"), params.judge.max_missing)
        compared = None
        if rival is not None and champion is not None:
            problems += _unusable(f"champion {current}", rival.metrics, champion.tags.get("adapter_sha256"), params.judge.max_missing)
            problems += _not_comparable(mine, rival.metrics, f"models:/{params.registry.model_name}/{current}")
            if not problems:
                compared = _paired(rival, measured, current, problems, f"models:/{params.registry.model_name}/{current}")
        rows += _rows(title(benchmark, mine), mine, theirs, compared)
        if problems:
            failures += [f"{benchmark}: {problem}" for problem in problems]
            continue
        average = mine["models"]["adapted"]["average"]["value"]
        if current == number:
            grounds.append(f"{benchmark}: version {number} is already champion, at {average:.4f}")
            continue
        needed = params.gate.min_average if theirs is None else theirs["models"]["adapted"]["average"]["value"] - params.gate.margin
        rule = f"gate.min_average {needed:.4f}" if theirs is None else f"the champion's average less gate.margin, {needed:.4f}"
        verdict = f"{benchmark}: average {average:.4f}, needed {rule}"
        (grounds if average >= needed - 1e-9 else failures).append(verdict)
        if compared is not None:
            p = compared.average.p or 0.0
            differences[benchmark] = text = f"{_interval(compared.average)}, p {p:.3f}"
            if compared.average.value < 0 and p < params.gate.significance:
                failures.append(
                    f"{benchmark}: worse than the champion in the paired test, {text}; gate.significance is {params.gate.significance}"
                )
            else:
                grounds.append(f"{benchmark}: not worse in the paired test over {sum(task.n for task in compared.tasks)} scores, {text}")
        worse, better = _base_and_chance(params, measured)
        failures += [f"{benchmark}: {sentence}" for sentence in worse]
        grounds += [f"{benchmark}: {sentence}" for sentence in better]
    table = "\n".join(["| | champion | candidate | change | p |", "|---|---|---|---|---|", *rows])
    return GateResult(not failures, failures or grounds, table, number, current, differences)


def _base_and_chance(params: Params, candidate: Measurement) -> tuple[list[str], list[str]]:
    """(sentences on what the candidate is worse than, sentences on what it is not worse than), for its base and for a blind guess."""
    from pllava.stages.evaluate.compare import against_base_and_chance

    if candidate.results is None:
        return ["its answers are not kept, so it cannot be compared with its base and with chance. Run: pllava register"], []
    try:
        compared = against_base_and_chance(candidate.results, candidate.metrics["provenance"].get("average_over") or "tasks")
    except PllavaError as error:
        return [f"not compared with its base and with chance: {error}"], []
    worse, better = [], []
    for other, name, margin in (("base", "its base, untrained", params.gate.margin), ("chance", "a blind guess", 0.0)):
        if other not in compared:
            continue
        ours, theirs, difference = compared[other]
        p = difference.p or 0.0
        numbers = f"{_percent(ours)} % against {_percent(theirs)} %, {_interval(difference)}, p {p:.3f}"
        if difference.value < -margin - 1e-9 or (difference.value < 0 and p < params.gate.significance):
            worse.append(f"worse than {name}: {numbers}")
        else:
            better.append(f"not worse than {name}: {numbers}")
    models = candidate.metrics["models"]
    average, of_base = (_value(models.get(model, {}).get("average")) for model in ("adapted", "base"))
    if "base" not in compared and average is not None and of_base is not None and average < of_base - 1e-9:
        numbers = f"{_percent(average)} % against {_percent(of_base)} %"
        worse.append(f"worse than its base, untrained: {numbers}; not paired, the base's answers are not kept")
    return worse, better


def _paired(champion: Measurement, candidate: Measurement, number: int | None, problems: list[str], uri: str) -> Comparison | None:
    """The paired test. Where it can't be made: None, with the reason appended to `problems`."""
    from pllava.stages.evaluate.compare import compare

    if champion.results is None:
        problems.append(
            f"the answers of champion {number} are not kept, so nothing can be paired. Measure it: pllava evaluate --model {uri}"
        )
    if candidate.results is None:
        problems.append("its answers are not kept, so nothing can be paired. Run: pllava register")
    if champion.results is None or candidate.results is None:
        return None
    try:
        return compare(champion.results, candidate.results)
    except PllavaError as error:
        problems.append(f"no paired test: {error}")
        return None


def _interval(interval: Interval) -> str:
    """Percentage points with their 95 % interval."""
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _unusable(who: str, metrics: dict[str, Any], adapter_sha256: str | None, max_missing: float) -> list[str]:
    """Reasons why these metrics can't be used; empty when they can. max_missing: the share of judgements that may have failed (0..1)."""
    if not metrics:
        return [f"{who} has no recorded metrics. Run: dvc repro, then pllava register"]
    provenance, adapted = metrics.get("provenance", {}), metrics.get("models", {}).get("adapted", {})
    problems = [f"{who} does not record {key}" for key in SAME if not provenance.get(key)]
    if not adapter_sha256 or provenance.get("adapter_sha256") != adapter_sha256:
        problems.append(
            f"{who} was measured on adapter {_short(provenance.get('adapter_sha256'))}, but is {_short(adapter_sha256)}. Run: dvc repro"
        )
    if not adapted.get("tasks"):
        problems.append(f"{who} has no tasks of the adapted model")
    for task, score in {"average": adapted.get("average"), **adapted.get("tasks", {})}.items():
        value = (score or {}).get("value")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not 0 <= value <= 1:
            problems.append(f"{who}: {task} is {value}, a number from 0 to 1 is needed")
    scores = list(adapted.get("tasks", {}).values())
    missing, total = (sum(int((score or {}).get(key) or 0) for score in scores) for key in ("missing", "n"))
    if missing > max_missing * total:
        problems.append(
            f"{who}: {missing} of {total} judgements are missing, judge.max_missing allows {max_missing:.1%}. Run: pllava judge"
        )
    return problems


def _not_comparable(mine: dict[str, Any], theirs: dict[str, Any], uri: str) -> list[str]:
    """Reasons why two sets of metrics can't be compared; empty when they can. uri: address of the champion."""
    ours, others = mine.get("provenance", {}), theirs.get("provenance", {})
    problems = [
        f"{key} differs: {_short(ours.get(key))} here, {_short(others.get(key))} for the champion; they are only "
        f"compared on one test set. Measure the champion on this one: pllava evaluate --model {uri}"
        for key in SAME
        if ours.get(key) != others.get(key)
    ]
    if ours.get("limit") != others.get("limit"):
        problems.append(f"limit differs: {ours.get('limit')} here, {others.get('limit')} for the champion")
    if ours.get("judge") != others.get("judge"):  # scores of a judge and of the offline scorer are not comparable
        names = [(provenance.get("judge") or {}).get("name", "no judge") for provenance in (ours, others)]
        problems.append(f"judge differs: {names[0]} here, {names[1]} for the champion; score both with one judge: pllava judge")
    if difference := set(_tasks(mine)) ^ set(_tasks(theirs)):
        problems.append(f"these tasks are in one of the two only: {', '.join(sorted(difference))}")
    return problems


def _rows(benchmark: str, mine: dict[str, Any], theirs: dict[str, Any] | None, compared: Comparison | None) -> list[str]:
    """Markdown table rows in percent; a missing number is a dash. The p-values of tasks have Holm's correction."""
    ours, others = _tasks(mine), _tasks(theirs or {})
    p: dict[str, float | None] = {}
    if compared:
        p.update({task.task: task.p_holm for task in compared.tasks}, average=compared.average.p)
    rows = []
    for task in [*ours, *(task for task in others if task not in ours)]:
        new, old = _value(ours.get(task)), _value(others.get(task))
        change = f"{100 * (new - old):+.1f}" if new is not None and old is not None else "-"
        p_value = p.get(task)
        rows.append(
            f"| {benchmark}: {task} | {_percent(old)} | {_percent(new)} | {change} | {'-' if p_value is None else f'{p_value:.3f}'} |"
        )
    return rows


def _tasks(metrics: dict[str, Any]) -> dict[str, Any]:
    adapted = metrics.get("models", {}).get("adapted", {})
    return {**adapted.get("tasks", {}), "average": adapted.get("average")}


def _value(score: dict[str, Any] | None) -> float | None:
    value = (score or {}).get("value")
    return float(value) if isinstance(value, int | float) else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "nothing"
