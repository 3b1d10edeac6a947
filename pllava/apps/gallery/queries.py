"""Queries of the index: a page of questions, one question, and the comparison of models."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from pllava.apps.gallery.index import ORDER

PAGE = 50  # questions
SIDES = ("differ", "gained", "lost", "both right", "both wrong", "all")
VERDICTS = ("right", "wrong", "not judged", "unreadable")


@dataclass(frozen=True)
class Filter:
    """Which questions a page shows. Each field is a field of the page's address.

    models: labels of the models of a comparison; the others are compared with the first. side: one of SIDES.
    """

    benchmark: str = ""
    task: str = ""
    model: str = ""
    verdict: str = ""
    text: str = ""
    models: tuple[str, ...] = ()
    side: str = ""
    page: int = 1

    def query(self, **changes: Any) -> str:
        """The query of the address, with `changes`. Empty fields are left out."""
        changed = replace(self, **changes)
        single = {name: getattr(changed, name) for name in ("benchmark", "task", "model", "verdict", "text", "side")}
        pairs = [(name, value) for name, value in single.items() if value] + [("models", model) for model in changed.models]
        return urlencode(pairs + ([("page", str(changed.page))] if changed.page > 1 else []), quote_via=quote)


class Index:
    """Reads an index that `pllava.apps.gallery.index.build` made. Every call opens the file anew, because several threads serve pages."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with self._open() as database:
            rows = database.execute("SELECT * FROM models ORDER BY id").fetchall()
            self.tasks: list[tuple[str, str, int]] = [
                tuple(row) for row in database.execute("SELECT benchmark, task, COUNT(*) FROM questions GROUP BY 1, 2 ORDER BY 1, MIN(id)")
            ]
        rank = {name: index for index, name in enumerate(ORDER)}
        ordered = sorted(rows, key=lambda row: rank.get(row["model"], len(ORDER)))
        self.models: dict[str, int] = {row["label"]: row["id"] for row in ordered}  # label -> id
        self.default_pair = _pair([(row["source"], row["model"], row["label"]) for row in ordered])
        self.benchmarks = list(dict.fromkeys(benchmark for benchmark, _, _ in self.tasks))
        self.total = sum(count for _, _, count in self.tasks)
        self.compare = lru_cache(64)(self._compare)
        self.scores = lru_cache(64)(self._scores)
        self.count = lru_cache(256)(self._count)

    def page(self, chosen: Filter) -> list[dict[str, Any]]:
        """The questions of a page, at most PAGE, with the answers of all models."""
        where, values = self._where(chosen)
        with self._open() as database:
            rows = database.execute(
                f"SELECT q.* FROM questions q WHERE {where} ORDER BY q.id LIMIT ? OFFSET ?", (*values, PAGE, (chosen.page - 1) * PAGE)
            ).fetchall()
            return self._with_answers(database, rows)

    def shown(self, chosen: Filter) -> list[str]:
        """Labels of the models that have a column on the page."""
        if chosen.models:
            return list(chosen.models)
        return [chosen.model] if chosen.model in self.models else list(self.models)

    def question(self, benchmark: str, sample: str, version: str = "") -> list[dict[str, Any]]:
        """The questions of this id: one, or several where test sets differ. version: only this one of several."""
        with self._open() as database:
            rows = database.execute(
                "SELECT * FROM questions WHERE benchmark = ? AND sample = ? AND (version = ? OR ? = '') ORDER BY id",
                (benchmark, sample, version, version),
            ).fetchall()
            return self._with_answers(database, rows)

    def by_number(self, number: int) -> dict[str, Any] | None:
        """A question without its answers, by its row number; None when there is none."""
        with self._open() as database:
            row = database.execute("SELECT * FROM questions WHERE id = ?", (number,)).fetchone()
        return dict(row) if row else None

    def neighbours(self, chosen: Filter, number: int) -> tuple[dict[str, Any] | None, dict[str, Any] | None, int]:
        """(question before, question after, number of questions before), among the questions of the filter."""
        where, values = self._where(chosen)
        neighbours: list[dict[str, Any] | None] = []
        with self._open() as database:
            for side, order in (("<", "DESC"), (">", "ASC")):
                row = database.execute(
                    f"SELECT q.* FROM questions q WHERE {where} AND q.id {side} ? ORDER BY q.id {order} LIMIT 1", (*values, number)
                ).fetchone()
                neighbours.append(dict(row) if row else None)
            before = database.execute(f"SELECT COUNT(*) FROM questions q WHERE {where} AND q.id < ?", (*values, number)).fetchone()[0]
        return neighbours[0], neighbours[1], before

    def _count(self, chosen: Filter) -> int:
        where, values = self._where(chosen)
        with self._open() as database:
            return database.execute(f"SELECT COUNT(*) FROM questions q WHERE {where}", values).fetchone()[0]

    def _scores(self, benchmark: str, task: str = "") -> list[dict[str, Any]]:
        """For each model its mean value and its numbers of answers (n), of judged and of right answers."""
        where, values = self._where(Filter(benchmark=benchmark, task=task))
        with self._open() as database:
            rows = database.execute(
                "SELECT a.model, AVG(a.value) AS value, COUNT(*) AS n, COUNT(a.right) AS judged, SUM(a.right) AS right "
                f"FROM answers a JOIN questions q ON q.id = a.question WHERE {where} GROUP BY a.model",
                values,
            ).fetchall()
        scores = {row["model"]: dict(row) for row in rows}
        return [{"label": label, **scores[number]} for label, number in self.models.items() if number in scores]

    def _compare(self, models: tuple[str, ...], benchmark: str, text: str = "") -> dict[str, Any]:
        """Scores by task, and agreement of each pair of models, over the questions for which all models have a verdict.

        left_out: {label: number of the model's answers to other questions}.
        """
        ids = [self.models[label] for label in models]
        columns = ", ".join(f"a{i}.right AS r{i}, a{i}.value AS v{i}, a{i}.prediction AS p{i}" for i in range(len(ids)))
        joins = " ".join(f"JOIN answers a{i} ON a{i}.question = q.id AND a{i}.model = {number}" for i, number in enumerate(ids))
        judged = " AND ".join(f"a{i}.right IS NOT NULL" for i in range(len(ids)))
        where, values = self._where(Filter(benchmark=benchmark, text=text))
        common = f"SELECT q.id, q.benchmark, q.task, {columns} FROM questions q {joins} WHERE {where} AND {judged}"
        means = ", ".join(f"AVG(v{i}) AS mean{i}, SUM(r{i} > r0) AS gained{i}, SUM(r{i} < r0) AS lost{i}" for i in range(len(ids)))
        pairs = list(combinations(range(len(ids)), 2))
        agree = ", ".join(
            f"SUM(r{i} = r{j}) AS same{i}_{j}, SUM(p{i} = p{j}) AS text{i}_{j}, SUM(r{i} AND r{j}) AS both{i}_{j}, "
            f"SUM(r{i}) AS one{i}_{j}, SUM(r{j}) AS two{i}_{j}"
            for i, j in pairs
        )
        with self._open() as database:
            tasks = database.execute(
                f"SELECT benchmark, task, COUNT(*) AS n, {means} FROM ({common}) GROUP BY 1, 2 ORDER BY 1, MIN(id)", values
            ).fetchall()
            total = database.execute(f"SELECT COUNT(*) AS n, {means}, {agree} FROM ({common})", values).fetchone()
            answered = {
                label: database.execute(
                    f"SELECT COUNT(*) FROM answers a JOIN questions q ON q.id = a.question WHERE a.model = ? AND {where}", (number, *values)
                ).fetchone()[0]
                for label, number in zip(models, ids, strict=True)
            }
        return {
            "tasks": [dict(row) for row in tasks],
            "total": dict(total),
            "pairs": [_agreement(models[i], models[j], dict(total), f"{i}_{j}") for i, j in pairs] if total["n"] else [],
            "left_out": {label: count - total["n"] for label, count in answered.items()},
        }

    def _where(self, chosen: Filter) -> tuple[str, list[Any]]:
        """(SQL condition on the question `q`, its bound values). The SQL holds no text from outside; model numbers are our own."""
        parts, values = ["1"], []
        for column in ("benchmark", "task"):
            if value := getattr(chosen, column):
                parts.append(f"q.{column} = ?")
                values.append(value)
        if chosen.text.strip():
            parts.append("q.id IN (SELECT question FROM words WHERE instr(text, ?))")
            values.append(chosen.text.strip().casefold())
        if chosen.models:
            parts.append(self._between([self.models[label] for label in chosen.models if label in self.models], chosen.side))
        elif chosen.model or chosen.verdict:
            of = "" if not chosen.model else f" AND a.model = {self.models.get(chosen.model, 0)}"
            verdict = " AND a.verdict = ?" if chosen.verdict else ""
            parts.append(f"EXISTS (SELECT 1 FROM answers a WHERE a.question = q.id{of}{verdict})")
            values += [chosen.verdict] if chosen.verdict else []
        return " AND ".join(parts), values

    @staticmethod
    def _between(ids: Sequence[int], side: str) -> str:
        """SQL condition: all these models have a verdict for the question, and the verdicts relate as `side` says."""
        numbers = ", ".join(map(str, ids)) or "0"
        right = f"(SELECT SUM(a.right) FROM answers a WHERE a.question = q.id AND a.model IN ({numbers}))"
        first = f"(SELECT a.right FROM answers a WHERE a.question = q.id AND a.model = {ids[0] if ids else 0})"
        judged = f"(SELECT COUNT(a.right) FROM answers a WHERE a.question = q.id AND a.model IN ({numbers})) = {len(ids)}"
        conditions = {
            "gained": f"{first} = 0 AND {right} > 0",
            "lost": f"{first} = 1 AND {right} < {len(ids)}",
            "both right": f"{right} = {len(ids)}",
            "both wrong": f"{right} = 0",
            "all": "1",
        }
        return f"{judged} AND {conditions.get(side, f'{right} BETWEEN 1 AND {len(ids) - 1}')}"

    def _with_answers(self, database: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[dict[str, Any]]:
        """Questions as dictionaries, with `answers`: {label: answer}."""
        questions = {row["id"]: dict(row) | {"candidates": json.loads(row["candidates"]), "answers": {}} for row in rows}
        labels = {number: label for label, number in self.models.items()}
        marks = ", ".join("?" * len(questions))
        for answer in database.execute(f"SELECT * FROM answers WHERE question IN ({marks})", list(questions)):
            scores = json.loads(answer["scores"]) if answer["scores"] else {}
            questions[answer["question"]]["answers"][labels[answer["model"]]] = dict(answer) | {"scores": scores}
        return list(questions.values())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(f"{self.path.as_uri()}?mode=ro&immutable=1", uri=True)
        database.row_factory = sqlite3.Row
        try:
            yield database
        finally:
            database.close()


def _pair(models: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    """Labels that a comparison begins with: a model that two sources have, else the last model and the first."""
    for _, model, _ in models:
        if len(same := [label for _, other, label in models if other == model]) > 1:
            return tuple(same[:2])
    return (models[-1][2], models[0][2]) if len(models) > 1 else (models[0][2],)


def _agreement(a: str, b: str, total: dict[str, Any], pair: str) -> dict[str, Any]:
    """How often two models have the same verdict (same) and the same text (words), and Cohen's kappa of the verdicts (1960).

    n: questions. kappa: None when the agreement by chance is 1.
    """
    n, same, both, one, two = (total[key] for key in ("n", f"same{pair}", f"both{pair}", f"one{pair}", f"two{pair}"))
    by_chance = (one * two + (n - one) * (n - two)) / n**2
    kappa = None if by_chance == 1 else (same / n - by_chance) / (1 - by_chance)
    only = {"only_a": one - both, "only_b": two - both, "both": both, "neither": n - one - two + both}
    return {"a": a, "b": b, "n": n, "same": same / n, "words": total[f"text{pair}"] / n, "kappa": kappa, **only}
