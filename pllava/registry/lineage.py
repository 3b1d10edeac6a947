"""`pllava lineage models:/pllava@champion`: the origin of a model or of a file of results.

version -> MLflow run -> git commit -> settings -> hashes of the data -> flow run -> package versions. Each step is read from the records
made at the time. A step without a record is shown as unknown, never guessed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import sha256_file
from pllava.core.params import Params
from pllava.registry.card import corpora_of, dataset_inputs
from pllava.registry.versions import all_versions
from pllava.tracking.provenance import locked_stages
from pllava.tracking.runs import run_of
from pllava.tracking.store import client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

UNKNOWN = "unknown"
OF_VERSION = (
    "gate",
    "gate.against",
    "promoted_at",
    "promoted_by",
    "forced_by",
    "forced_reason",
    "forced_over",
    "promoted_over",
    "rolled_back_at",
)


def lineage(params: Params, target: str) -> dict[str, Any]:
    """The recorded origin of `target`: a registry address, an adapter folder, or a file of results (metrics, answers, run record).

    Raises PllavaError when the target does not exist or names no adapter.
    """
    connection = client()
    facts: dict[str, Any] = {"target": target}
    if target.startswith("models:/"):
        from pllava.registry.resolve import locate

        name = target.removeprefix("models:/").split("@")[0].split("/")[0]
        version = connection.get_model_version(name, str(locate(target)[0]))
        digest = version.tags.get("adapter_sha256")
    else:
        digest, facts["results"] = _of_path(Path(target))
        name = params.registry.model_name
        version = next((v for v in all_versions(connection, name) if v.tags.get("adapter_sha256") == digest), None)
    facts["adapter_sha256"] = digest or UNKNOWN
    facts["version"] = _version(connection, version) if version else None
    run = _run(connection, params, version, digest)
    facts |= _from_run(connection, run, version)
    return {key: value for key, value in facts.items() if key != "results" or value}


def text(facts: dict[str, Any]) -> str:
    """The result of `lineage` for a terminal, one fact a line."""
    lines: list[str] = []

    def add(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(inner, f"{prefix}  {key}" if prefix else key)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{prefix}: {'none' if shown in (None, '') else shown}")

    add(facts, "")
    return "\n".join(lines)


def _of_path(path: Path) -> tuple[str | None, dict[str, Any]]:
    """(adapter_sha256, facts about the results) of an adapter folder (no facts) or a file of results."""
    if (path / "manifest.json").is_file():
        from pllava.registry.resolve import verify

        return verify(path), {}
    if not path.is_file():
        raise PllavaError(
            f"{path} is not a registry address (models:/NAME@ALIAS), an adapter folder, or a file of results like metrics/mvbench.json"
        )
    described = _described(path)
    provenance = described.get("provenance", described)
    digest = provenance.get("adapter_sha256") if isinstance(provenance, dict) else None
    if not isinstance(digest, str) or not digest:
        raise PllavaError(f"{path} names no adapter (no provenance.adapter_sha256), so there is nothing to follow")
    keys = (
        "benchmark",
        "base",
        "base_sha256",
        "data_sha256",
        "template",
        "template_sha256",
        "lora_alpha",
        "code_sha256",
        "versions",
        "judge",
    )
    facts = {key: provenance[key] for key in keys if provenance.get(key) is not None}
    return digest, {"file_sha256": sha256_file(path)} | facts | _record(path, described)


def _described(path: Path) -> dict[str, Any]:
    """Content of the metrics file that a file of results belongs to; a metrics file belongs to itself."""
    if path.suffix != ".jsonl":
        content = read_json(path)
        if not isinstance(content, dict):
            raise PllavaError(f"{path} is no file of results: it holds {type(content).__name__}")
        if "metrics_sha256" not in content or not isinstance(content.get("benchmark"), str):
            return content
        candidates = [Path("metrics") / f"{content['benchmark']}.json", path.parent.parent / content["benchmark"] / "metrics.json"]
        matching = [file for file in candidates if file.is_file() and sha256_file(file) == content["metrics_sha256"]]
    else:
        candidates = [path.with_name("metrics.json"), Path("metrics") / f"{path.parent.name}.json", path.parent.with_suffix(".json")]
        matching = [file for file in candidates if file.is_file()]
    if not matching:
        raise PllavaError(f"the metrics that {path} belongs to are not there; looked for: {', '.join(map(str, candidates))}")
    return read_json(matching[0])


def _record(path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Time and code of the evaluation run that wrote the file; empty without a record of that run."""
    folders = (Path("outputs/evaluation_runs"), path.parent.parent / "records", path.parent)
    digest = sha256_file(path)
    for folder in folders:
        file = folder / f"{described.get('benchmark') or path.stem}.json"
        record = read_json(file) if file.is_file() else None
        if not isinstance(record, dict) or "metrics_sha256" not in record:
            continue
        if file == path or digest in (record["metrics_sha256"], record["results_sha256"]):
            return {"evaluated_at": record["finished_at"], "evaluated_by": record["code"]}
    return {}


def _version(connection: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    model = connection.get_registered_model(version.name)
    aliases = sorted(alias for alias, number in model.aliases.items() if str(number) == str(version.version))
    tags = {key: version.tags[key] for key in OF_VERSION if version.tags.get(key)}
    return {"name": version.name, "number": int(version.version), "aliases": aliases} | tags


def _run(connection: MlflowClient, params: Params, version: ModelVersion | None, digest: str | None) -> MlflowRun | None:
    from mlflow.exceptions import MlflowException

    if version is not None and version.run_id:
        try:
            return connection.get_run(version.run_id)
        except MlflowException:  # deleted
            return None
    if not digest:
        return None
    return run_of(connection, params, digest)


def _from_run(connection: MlflowClient, run: MlflowRun | None, version: ModelVersion | None) -> dict[str, Any]:
    tags = run.data.tags if run else version.tags if version else {}
    data = {item.dataset.name: item.dataset.digest for item in dataset_inputs(run)} if run else {}
    packages = {key.removeprefix("version."): value for key, value in sorted(tags.items()) if key.startswith("version.")}
    return {
        "run": {"id": run.info.run_id, "name": run.info.run_name, "status": run.info.status} if run else None,
        "git": {"commit": tags.get("git.commit", UNKNOWN), "dirty": tags.get("git.dirty", UNKNOWN)}
        | ({"changed": tags["git.changed"]} if tags.get("git.changed") else {}),
        "params_sha256": tags.get("params_sha256", UNKNOWN),
        "data": data or {key.removeprefix("data."): value for key, value in tags.items() if key.startswith("data.")},
        "corpora": corpora_of(tags),
        "dvc_lock": _lock(connection, run, version),
        "flow_run": tags.get("flow_run_id") or None,
        "packages": packages | {key: tags[key] for key in ("python", "platform") if key in tags},
    }


def _lock(connection: MlflowClient, run: MlflowRun | None, version: ModelVersion | None) -> dict[str, Any] | None:
    """Hash of the dvc.lock stored at registration, and {output path: md5}; None when no dvc.lock is stored."""
    if run is None or not any(Path(item.path).name == "dvc.lock" for item in connection.list_artifacts(run.info.run_id, "lineage")):
        return None
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(connection.download_artifacts(run.info.run_id, "lineage/dvc.lock", folder))
        outputs = {out["path"]: out["md5"] for stage in locked_stages(file).values() for out in stage.get("outs", []) if "md5" in out}
        return {"sha256": sha256_file(file)} | outputs


def as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False)
