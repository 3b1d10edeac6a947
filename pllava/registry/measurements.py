"""Measurements of a version: metrics and all answers, stored with its MLflow run, for comparisons question by question.

A version is measured again when the test set, the template or the judge changes (`pllava evaluate --model models:/pllava@champion`). Each
measurement has a folder of its own: measured/<benchmark>/<key>/{metrics.json,results.jsonl}. Versions of one adapter at several strengths
share a run, so a version with its own strength uses measured-alpha-<strength>/ instead.
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
MEASURED = "measured."  # tag of a version, before the benchmark's name: the key of the measurement at its registration
CONDITIONS = ("data_sha256", "template_sha256", "limit", "judge")  # provenance that two comparable measurements share


@dataclass(frozen=True)
class Measurement:
    """`metrics`: as metrics/<benchmark>.json, {} when there is none. `results`: the answers (results.jsonl), None when not kept."""

    metrics: dict[str, Any]
    results: Path | None


def key(metrics: dict[str, Any]) -> str:
    """Hash of the conditions of a measurement, 16 hexadecimal digits."""
    provenance = metrics.get("provenance", {})
    conditions = {name: provenance.get(name) for name in CONDITIONS}
    return sha256_of(conditions)[:16]


def artifact_path(version: ModelVersion, benchmark: str, metrics: dict[str, Any]) -> str:
    """Folder, among the artifacts of a version's run, of the measurement under the conditions of `metrics`."""
    return f"{_home(version, benchmark)}/{key(metrics)}"


def _home(version: ModelVersion, benchmark: str) -> str:
    strength = version.tags.get("lora_alpha")
    return f"measured{f'-alpha-{strength}' if strength else ''}/{benchmark}"


def keep(connection: MlflowClient, version: ModelVersion, run_id: str, benchmark: str, metrics: Path, results: Path) -> None:
    """Store a measurement with the version's run. It replaces a measurement under the same conditions."""
    folder_in_run = artifact_path(version, benchmark, dict(read_metrics(metrics)))
    with tempfile.TemporaryDirectory() as folder:
        for name, file in {
            "results.jsonl": results,
            "metrics.json": metrics,
        }.items():  # metrics last: their presence means that the answers are complete
            copy = Path(folder) / name
            copy.write_bytes(file.read_bytes())
            connection.log_artifact(run_id, str(copy), folder_in_run)


def held(connection: MlflowClient, version: ModelVersion, benchmark: str, like: dict[str, Any]) -> bool:
    """Whether the run stores a complete measurement of the version under the conditions of `like`."""
    artifacts = connection.list_artifacts(version.run_id, artifact_path(version, benchmark, like)) if version.run_id else []
    return WHOLE.issubset(Path(item.path).name for item in artifacts)


def at_registration(connection: MlflowClient, version: ModelVersion, benchmark: str) -> dict[str, Any]:
    """The metrics that a version was registered with; {} when it has none. Versions of before hold them in a tag."""
    from mlflow.exceptions import MlflowException

    if text := version.tags.get(f"metrics.{benchmark}"):
        return dict(json.loads(text))
    conditions = version.tags.get(f"{MEASURED}{benchmark}")
    if not conditions or not version.run_id:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = f"{_home(version, benchmark)}/{conditions}/metrics.json"
            return dict(read_metrics(Path(connection.download_artifacts(version.run_id, file, folder))))
        except (MlflowException, OSError):  # the files of the run were deleted
            return {}


def unmeasured(params: Params, version: int) -> tuple[int | None, list[str]]:
    """(number of the champion, benchmarks on which it must be measured before `version` can be compared with it).

    On these benchmarks the champion has no measurement with the test set, template, limit and judge of `version`.
    Returns (None, []) when there is no champion or `version` is the champion.
    """
    from pllava.registry.versions import CHAMPION, by_alias, pick
    from pllava.tracking.store import client

    connection, name = client(), params.registry.model_name
    champion, candidate = by_alias(connection, name, CHAMPION), pick(connection, name, version)
    if champion is None or int(champion.version) == version:
        return None, []
    wanted = {benchmark: at_registration(connection, candidate, benchmark) for benchmark in params.evaluate.benchmarks}
    return int(champion.version), [
        benchmark for benchmark, metrics in wanted.items() if metrics and not held(connection, champion, benchmark, metrics)
    ]


def find(connection: MlflowClient, version: ModelVersion, benchmark: str, like: dict[str, Any] | None, folder: Path) -> Measurement:
    """The measurement of a version under the conditions of `like` (None: the conditions at registration). Files are downloaded to `folder`.

    Without such a measurement, returns the metrics from registration and no answers, so that the gate can name the difference.
    """
    registered = at_registration(connection, version, benchmark)
    run_id = version.run_id or ""
    if not run_id:
        return Measurement(registered, None)
    if held(connection, version, benchmark, like or registered):
        folder_in_run = artifact_path(version, benchmark, like or registered)
        target = folder / str(version.version) / benchmark
        target.mkdir(parents=True, exist_ok=True)
        metrics, results = (
            Path(connection.download_artifacts(run_id, f"{folder_in_run}/{name}", str(target)))
            for name in ("metrics.json", "results.jsonl")
        )
        return Measurement(dict(read_metrics(metrics)), results)
    return Measurement(registered, None)
