"""`pllava register`: make the trained adapter folder a version of the model, with its measurements and its origin.

The version's artifact is an MLflow model (`package.py`) that holds a copy of the folder (safetensors and YAML, no pickle). One adapter
at one strength (evaluate.lora_alpha) is registered once. Another strength gives other answers, so it is another version.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.artifacts import metrics as metrics_file
from pllava.core.errors import PllavaError
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.registry.card import card
from pllava.registry.measurements import MEASURED, keep
from pllava.registry.measurements import key as key_of
from pllava.registry.package import package
from pllava.registry.versions import CANDIDATE, all_versions, ensure_model
from pllava.tracking.runs import ADAPTER, Run, adapter_run
from pllava.tracking.store import client, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

REPORT = Path("outputs/report")
LOCK = Path("dvc.lock")
DESCRIPTION = 5000  # characters, the limit of MLflow's database; model_card.md holds the whole card
ARTIFACT = "model"
ANSWERS = Path("outputs/evaluate")


def register(params: Params) -> int:
    """Register outputs/train/adapter with its measurements; returns the version's number.

    An adapter that is already registered at this strength keeps its number, and its measurements are updated.
    Raises PllavaError when there is no adapter or no measurement of it.
    """
    from pllava.registry.resolve import verify

    root = project_root()
    digest = verify(root / ADAPTER)
    measured = read_metrics(root, params)
    connection = client()
    run = adapter_run(connection, params)
    log_results(connection, run, root, measured)
    name = params.registry.model_name
    ensure_model(connection, name)
    # The strength for measuring and serving; no entry: as trained.
    strength = {} if params.evaluate.lora_alpha is None else {"lora_alpha": str(params.evaluate.lora_alpha)}
    identity = {"adapter_sha256": digest} | strength
    known = next((version for version in all_versions(connection, name) if _identity(version) == identity), None)
    artifact = f"{ARTIFACT}-alpha-{strength['lora_alpha']}" if strength else ARTIFACT
    if known is None:
        base = base_of(params, root)
        with tempfile.TemporaryDirectory() as folder:
            package(params, root / ADAPTER, base, Path(folder) / ARTIFACT)
            connection.log_artifacts(run.info.run_id, str(Path(folder) / ARTIFACT), artifact)
        source = f"{run.info.artifact_uri}/{artifact}"
        known = connection.create_model_version(name, source, run.info.run_id, tags=identity)
    number = str(known.version)
    for benchmark in measured:
        keep(
            connection,
            known,
            known.run_id or run.info.run_id,
            benchmark,
            root / metrics_file.METRICS / f"{benchmark}.json",
            answers(root, benchmark),
        )
    if (root / LOCK).is_file():
        connection.log_artifact(known.run_id or run.info.run_id, str(root / LOCK), "lineage")
        connection.set_tag(known.run_id or run.info.run_id, "dvc_lock_sha256", sha256_file(root / LOCK))
    # A version has few tags: its identity, its averages, and where its measurements are. The rest is in its run and its card.
    tags: dict[str, str] = {}
    averages = {name: metrics.get("models", {}).get("adapted", {}).get("average", {}).get("value") for name, metrics in measured.items()}
    for benchmark, metrics in measured.items():
        tags |= {f"{benchmark}.average": str(averages[benchmark]), f"{MEASURED}{benchmark}": key_of(metrics)}
    for key, value in tags.items():
        if known.tags.get(key) != value:
            connection.set_model_version_tag(name, number, key, value)
    for benchmark in measured:
        if f"metrics.{benchmark}" in known.tags:  # registered by an earlier version of this project, and measured anew
            connection.delete_model_version_tag(name, number, f"metrics.{benchmark}")
    text = card(params, run, measured, digest)
    connection.update_model_version(name, number, described(averages, text))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model_card.md").write_text(text)
        connection.log_artifact(
            known.run_id or run.info.run_id, str(Path(folder) / "model_card.md"), (known.source or artifact).rsplit("/", 1)[-1]
        )
    connection.set_registered_model_alias(name, CANDIDATE, number)
    return int(number)


def described(averages: dict[str, float | None], text: str) -> str:
    """The description of a version in MLflow: its averages, then the beginning of its card."""
    first = ", ".join(f"{benchmark} {'-' if value is None else f'{100 * value:.1f} %'}" for benchmark, value in averages.items())
    return f"**{first}**\n\n{text}"[:DESCRIPTION]


def _identity(version: ModelVersion) -> dict[str, str]:
    """Tags that two versions may not share: the adapter's hash and the strength."""
    return {key: version.tags[key] for key in ("adapter_sha256", "lora_alpha") if key in version.tags}


def base_of(params: Params, root: Path) -> str:
    """The base that the adapter's config.yaml names: the path of an existing folder, else the name as it is, such as a hub id."""
    config = root / ADAPTER / "config.yaml"
    settings = yaml.safe_load(config.read_text()) or {} if config.is_file() else {}
    base = str(settings.get("base") or settings.get("model", {}).get("base") or params.model.base)
    return str(root / base) if (root / base).is_dir() else base


def answers(root: Path, benchmark: str) -> Path:
    """Path of the answers to a benchmark, which the gate's paired test needs. Raises PllavaError when the file is missing."""
    file = root / ANSWERS / benchmark / "results.jsonl"
    if not file.is_file():
        raise PllavaError(f"{ANSWERS}/{benchmark}/results.jsonl is not there, the gate needs it. Run: dvc repro evaluate@{benchmark}")
    return file


def read_metrics(root: Path, params: Params) -> dict[str, Any]:
    """{benchmark: content of metrics/<benchmark>.json} for every benchmark of the params. Raises PllavaError when a file is missing."""
    measured: dict[str, Any] = {}
    for benchmark in params.evaluate.benchmarks:
        answers(root, benchmark)
        file = root / metrics_file.METRICS / f"{benchmark}.json"
        if not file.is_file():
            raise PllavaError(f"metrics/{benchmark}.json is not there: the adapter is not measured. Run: dvc repro evaluate@{benchmark}")
        measured[benchmark] = metrics_file.read_metrics(file)
    return measured


def log_results(connection: MlflowClient, run: MlflowRun, root: Path, measured: dict[str, Any]) -> None:
    """Log metrics that changed, and the report unless it is logged already, to the training's run."""
    later = Run(connection, run.info.run_id)
    for benchmark, metrics in measured.items():
        flat = flat_metrics(benchmark, metrics)
        later.log_metrics({key: value for key, value in flat.items() if run.data.metrics.get(key) != value})
    later.flush()
    if (root / REPORT).is_dir() and not connection.list_artifacts(run.info.run_id, "report"):
        later.log_artifacts(root / REPORT, "report")


def flat_metrics(benchmark: str, metrics: dict[str, Any]) -> dict[str, float]:
    """{"mvbench/adapted/average": 0.9, "mvbench/adapted/Moving Count": ...}: MLflow groups charts by the parts of these names."""
    flat = {}
    for model, scores in metrics.get("models", {}).items():
        flat[f"{benchmark}/{model}/average"] = scores["average"]["value"]
        for task, score in scores.get("tasks", {}).items():
            flat[f"{benchmark}/{model}/{task}"] = score["value"]
    return {key: value for key, value in flat.items() if isinstance(value, int | float)}
