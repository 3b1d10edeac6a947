"""`pllava gate`: may this version become the champion? It fails closed: what is not known to be as good does not pass.

Two versions are compared only on the same test set, asked with the same template. Rules, for each benchmark of the params:
1. the version's numbers were measured on its own adapter, and none is missing or not a number;
2. it was not rolled back: only a person brings it back (`pllava rollback` again, or `pllava promote --force`);
3. a first champion needs an average of at least gate.min_average;
4. later ones need the champion's average less gate.margin.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pllava.params import Params
from pllava.registry.card import title
from pllava.registry.store import client
from pllava.registry.versions import CHAMPION, ROLLED_BACK, by_alias, pick

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SAME = ("data_sha256", "template_sha256")


@dataclass(frozen=True)
class GateResult:
    """`table` is Markdown; `reasons` say why not, or, when it passed, on what ground."""

    passed: bool
    reasons: list[str]
    table: str
    version: int
    champion: int | None


def gate(params: Params, version: int | None = None) -> GateResult:
    """Compare a version (None: the candidate) with the champion and record the outcome on the version.

    The champion itself passes and keeps what is recorded from the day it was promoted.
    """
    connection = client()
    name = params.registry.model_name
    candidate = pick(connection, name, version)
    champion = by_alias(connection, name, CHAMPION)
    result = judge(params, candidate, champion)
    if result.champion == result.version and result.passed:
        return result
    outcome = {
        "gate": "passed" if result.passed else "failed",
        "gate.against": str(result.champion or "none"),
        "gate.reasons": "\n".join(result.reasons),
    }
    for key, value in outcome.items():
        connection.set_model_version_tag(name, str(result.version), key, value)
    return result


def judge(params: Params, candidate: ModelVersion, champion: ModelVersion | None) -> GateResult:
    """The rules above, on what is recorded with each version. Writes nothing."""
    number, current = int(candidate.version), int(champion.version) if champion else None
    failures: list[str] = []
    grounds: list[str] = []
    rows: list[str] = []
    if current != number and (when := candidate.tags.get(ROLLED_BACK)):
        failures.append(
            f"version {number} was rolled back at {when}. To have it again: pllava rollback, or pllava promote --version {number} --force"
        )
    if not params.evaluate.benchmarks:
        failures.append("evaluate.benchmarks names no benchmark, so nothing is known. Name one in params.yaml")
    for benchmark in params.evaluate.benchmarks:
        mine, theirs = _metrics(candidate, benchmark), _metrics(champion, benchmark) if champion else None
        problems = _unusable(f"version {number}", mine, candidate.tags.get("adapter_sha256"))
        if theirs is not None and current != number:
            problems += _unusable(f"champion {current}", theirs, champion.tags.get("adapter_sha256") if champion else None)
            problems += _not_comparable(mine, theirs)
        rows += _rows(title(benchmark, mine), mine, theirs)
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
        (grounds if average >= needed else failures).append(verdict)
    table = "\n".join(["| | champion | candidate | change |", "|---|---|---|---|", *rows])
    return GateResult(not failures, failures or grounds, table, number, current)


def _metrics(version: ModelVersion, benchmark: str) -> dict[str, Any]:
    return json.loads(version.tags.get(f"metrics.{benchmark}", "{}"))


def _unusable(who: str, metrics: dict[str, Any], adapter_sha256: str | None) -> list[str]:
    """Why these numbers cannot be judged by."""
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
    return problems


def _not_comparable(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Why two sets of numbers cannot be put side by side."""
    ours, others = mine.get("provenance", {}), theirs.get("provenance", {})
    problems = [
        f"{key} differs: {_short(ours.get(key))} here, {_short(others.get(key))} for the champion; they are only "
        "compared on one test set. To decide yourself: pllava promote --force --reason TEXT"
        for key in SAME
        if ours.get(key) != others.get(key)
    ]
    if ours.get("judge") != others.get("judge"):  # a judge and the offline scorer measure different things
        names = [(found.get("judge") or {}).get("name", "no judge") for found in (ours, others)]
        problems.append(f"judge differs: {names[0]} here, {names[1]} for the champion; score both with one judge: pllava judge")
    if difference := set(_tasks(mine)) ^ set(_tasks(theirs)):
        problems.append(f"these tasks are in one of the two only: {', '.join(sorted(difference))}")
    return problems


def _rows(benchmark: str, mine: dict[str, Any], theirs: dict[str, Any] | None) -> list[str]:
    """Table rows, percent; a dash where a number is missing."""
    ours, others = _tasks(mine), _tasks(theirs or {})
    rows = []
    for task in [*ours, *(task for task in others if task not in ours)]:
        new, old = _value(ours.get(task)), _value(others.get(task))
        change = f"{100 * (new - old):+.1f}" if new is not None and old is not None else "-"
        rows.append(f"| {benchmark}: {task} | {_percent(old)} | {_percent(new)} | {change} |")
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
