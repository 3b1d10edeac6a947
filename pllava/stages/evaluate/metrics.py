"""`metrics/<benchmark>.json`: the scores of each model with intervals, and everything the scores depend on. Keys: docs/evaluation.md.

Git and DVC track the file, so equal runs must give equal bytes: it holds no time, no commit and no path of a machine. The record of the
run (`record.py`) and the MLflow run hold those.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pllava.artifacts.media_hashes import known_hashes
from pllava.benchmarks.benchmark import Benchmark, Sample
from pllava.benchmarks.io import data_sha256
from pllava.benchmarks.statistics import Bootstrap, bootstrap
from pllava.core.files import read_json
from pllava.core.hashing import code_sha256, sha256_file

if TYPE_CHECKING:
    from pllava.benchmarks.judge import Judge
    from pllava.chat.template import Template
    from pllava.core.params import Params

CODE = ("model", "video", "chat", "benchmarks", "stages/evaluate")  # the source that makes the answers
PACKAGES = ("pllava", "torch", "transformers", "tokenizers", "peft", "numpy", "pillow", "decord2", "av")


def provenance(
    params: Params,
    name: str,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    template: Template,
    adapter: Path | None,
    lora_alpha: float | None,
    limit: int | None,
) -> dict[str, Any]:
    """Everything that determines the answers, as a JSON object.

    lora_alpha: the strength in use; the setting may be None ("as trained"). adapter: the folder of the trained adapter; None: the caller
    replaces the weight hashes.
    """
    settings = params.evaluate.benchmarks[name]
    manifest = read_json(adapter / "manifest.json") if adapter else {"adapter_sha256": None}
    return {
        "benchmark": name,
        "source_sha256": sha256_file(settings.source) if settings.source else None,
        "base": params.model.base,
        "base_sha256": manifest.get("base_sha256"),
        "adapter_sha256": manifest["adapter_sha256"],
        "lora_alpha": lora_alpha,
        "data_sha256": data_sha256(settings.root, benchmark.annotations(settings.root), samples, _known_media(samples)),
        "template": settings.template,
        "template_sha256": template.sha256,
        "max_new_tokens": settings.max_new_tokens,
        "num_frames": params.model.num_frames,
        "pooling_shape": list(params.model.pooling_shape),
        "pooling_method": params.model.pooling_method,
        "frame_rule": benchmark.frame_rule,
        "dtype": params.model.dtype,
        "attn_implementation": params.model.attn_implementation,
        "batch_size": params.evaluate.batch_size,
        "seed": params.seed,
        "bootstrap_resamples": params.evaluate.bootstrap_resamples,
        "limit": limit,
        "n_questions": len(samples),
        "code_sha256": code_sha256(*CODE),
        "versions": {package: version(package) for package in PACKAGES},
    }


def build(rows: Iterable[dict[str, Any]], provenance: dict[str, Any], benchmark: Benchmark, judge: Judge) -> dict[str, Any]:
    """The content of the metrics file; values in 0..1, intervals of 95 %. `unreadable` lists media whose questions count as wrong.

    rows: scored rows; they are read once and not kept in memory.
    """
    unreadable: set[str] = set()
    judged: dict[tuple[str, str], _Judged] = defaultdict(_Judged)  # (model, task)

    def tallied() -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["error"] is not None:
                unreadable.add(row["media"])
            for task, score in row.get("scores", {}).items():
                judged[row["model"], task].add(score)
            yield row

    statistics = bootstrap(tallied(), provenance["bootstrap_resamples"], provenance["seed"], benchmark.share_clips)
    scored_by = {"judge": judge.provenance() if benchmark.judged else None, "average_over": benchmark.average_over}
    return {
        "benchmark": provenance["benchmark"],
        "provenance": provenance | scored_by | {"unreadable": sorted(unreadable)},
        "models": {model: _model(statistics, model, judged, benchmark) for model in statistics.models},
    }


class _Judged:
    """Judgements of one model on one task: the number of failed ones, and the mean of each field over the others."""

    FIELDS: ClassVar = {"score": "score", "f1": "f1", "accuracy": "correct"}

    def __init__(self) -> None:
        self.missing = 0
        self._sums: dict[str, list[float]] = {name: [0.0, 0] for name in self.FIELDS}  # [sum, count]

    def add(self, score: dict[str, Any]) -> None:
        if score["value"] is None:
            self.missing += 1
            return
        for name, field in self.FIELDS.items():
            if score.get(field) is not None:
                self._sums[name][0] += float(score[field])
                self._sums[name][1] += 1

    def means(self) -> dict[str, float]:
        return {name: round(total / count, 6) for name, (total, count) in self._sums.items() if count}


def _model(statistics: Bootstrap, model: str, judged: Mapping[tuple[str, str], _Judged], benchmark: Benchmark) -> dict[str, Any]:
    tasks = {}
    for task, entry in statistics.tasks.items():
        cell = _rounded(statistics.task(model, task).as_dict()) | {"n": entry.n, "chance": round(entry.chance, 6)}
        if benchmark.judged:
            cell |= {"missing": judged[model, task].missing} | judged[model, task].means()
        tasks[task] = cell
    if not tasks:  # no question has a reference answer
        empty = {"value": None, "low": None, "high": None}
        return {"average": empty, "average_over_tasks": empty, "average_over_questions": empty, "tasks": {}}
    averages = {over: _rounded(statistics.average(model, over=over).as_dict()) for over in ("tasks", "questions")}  # type: ignore[arg-type]
    if any("score" in cell for cell in tasks.values()):  # judge scores from 0 to 5, the published scale
        counted = [(cell["score"], cell["n"] - cell["missing"]) for cell in tasks.values() if "score" in cell]
        averages["tasks"]["score"] = round(sum(score for score, _ in counted) / len(counted), 6)
        averages["questions"]["score"] = round(sum(score * n for score, n in counted) / sum(n for _, n in counted), 6)
    return {
        "average": averages[benchmark.average_over],
        "average_over_tasks": averages["tasks"],
        "average_over_questions": averages["questions"],
        "tasks": tasks,
    }


def _rounded(values: dict[str, float]) -> dict[str, Any]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()}


def _known_media(samples: Sequence[Sample]) -> dict[str, str]:
    """{media path: sha256} as `prepare` recorded them, for media unchanged since then; empty when `prepare` has not run."""
    return known_hashes({sample.media.as_posix() for sample in samples})
