"""What was measured of a version: metrics and every answer, kept with its MLflow run, so that two versions can be compared pair by pair.

One version is measured again when the test set, the template or the judge changes (`pllava evaluate --model models:/pllava@champion`); each
measurement has a place of its own: measured/<benchmark>/<key>/{metrics.json,results.jsonl}. Versions of one adapter at several strengths
share its run: those with a strength of their own have measured-alpha-<strength>/.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts.metrics import read_metrics
from pllava.core.hashing import sha256_of
from pllava.core.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

WHOLE = {"metrics.json", "results.jsonl"}
CONDITIONS = ("data_sha256", "template_sha256", "limit", "judge")  # what two measurements must share to be put side by side


@dataclass(frozen=True)
class Measurement:
    """`metrics`: as metrics/<benchmark>.json, {} when there is none. `results`: the answers (results.jsonl), None when not kept."""

    metrics: dict[str, Any]
    results: Path | None


def key(metrics: dict[str, Any]) -> str:
    """One word for the conditions of a measurement."""
    provenance = metrics.get("provenance", {})
    conditions = {name: provenance.get(name) for name in CONDITIONS}
    return sha256_of(conditions)[:16]


def place_of(version: ModelVersion, benchmark: str, metrics: dict[str, Any]) -> str:
    """Where a version's run has what was measured under the conditions of these metrics."""
    strength = version.tags.get("lora_alpha")
    return f"measured{f'-alpha-{strength}' if strength else ''}/{benchmark}/{key(metrics)}"


def keep(connection: MlflowClient, version: ModelVersion, run_id: str, benchmark: str, metrics: Path, results: Path) -> None:
    """Store a measurement of a version with its run; what is stored already under these conditions is replaced."""
    place = place_of(version, benchmark, read_metrics(metrics))
    with tempfile.TemporaryDirectory() as folder:
        for name, file in {"results.jsonl": results, "metrics.json": metrics}.items():  # the numbers last: they vouch for the answers
            copy = Path(folder) / name
            copy.write_bytes(file.read_bytes())
            connection.log_artifact(run_id, str(copy), place)


def held(connection: MlflowClient, version: ModelVersion, benchmark: str, like: dict[str, Any]) -> bool:
    """Is the version measured under the conditions of these metrics?"""
    found = connection.list_artifacts(version.run_id, place_of(version, benchmark, like)) if version.run_id else []
    return WHOLE.issubset(Path(item.path).name for item in found)


def unmeasured(params: Params, version: int) -> tuple[int | None, list[str]]:
    """(the champion, benchmarks it has to be measured on before `version` can be compared with it); (None, []) without another champion.

    Those are the benchmarks whose test set, template, limit or judge of today is not what the champion was measured with.
    """
    from pllava.registry.versions import CHAMPION, by_alias, pick
    from pllava.tracking.store import client

    connection, name = client(), params.registry.model_name
    champion, candidate = by_alias(connection, name, CHAMPION), pick(connection, name, version)
    if champion is None or int(champion.version) == version:
        return None, []
    wanted = {benchmark: json.loads(candidate.tags.get(f"metrics.{benchmark}", "{}")) for benchmark in params.evaluate.benchmarks}
    return int(champion.version), [
        benchmark for benchmark, metrics in wanted.items() if metrics and not held(connection, champion, benchmark, metrics)
    ]


def find(connection: MlflowClient, version: ModelVersion, benchmark: str, like: dict[str, Any] | None, folder: Path) -> Measurement:
    """The measurement of a version under the conditions of `like` (None: those it was registered with); files are put into `folder`.

    When there is none under those conditions: the one it was registered with, so that a reader sees what differs.
    """
    registered = json.loads(version.tags.get(f"metrics.{benchmark}", "{}"))
    place = place_of(version, benchmark, like or registered)
    run_id = version.run_id or ""
    if not run_id:
        return Measurement(registered, None)
    if held(connection, version, benchmark, like or registered):
        target = folder / str(version.version) / benchmark
        target.mkdir(parents=True, exist_ok=True)
        metrics, results = (
            Path(connection.download_artifacts(run_id, f"{place}/{name}", str(target))) for name in ("metrics.json", "results.jsonl")
        )
        return Measurement(read_metrics(metrics), results)
    return Measurement(registered, None)
