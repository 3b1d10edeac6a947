"""A sweep in MLflow: one parent run, one child run for each point and strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pllava.core.params import Params
from pllava.tracking import provenance
from pllava.tracking.runs import Run
from pllava.tracking.store import client, experiment_id


def parent(params: Params, root: Path, name: str, known: str | None, tags: dict[str, str]) -> str:
    """Set the sweep's run to RUNNING, or make a new one when MLflow has no run `known`, of an earlier start. Returns the run's id."""
    from mlflow.exceptions import MlflowException

    connection = client()
    if known:
        try:
            connection.update_run(known, status="RUNNING")
            return known
        except MlflowException:  # deleted, or of another store
            pass
    run = connection.create_run(
        experiment_id(connection, params.registry.experiment),
        tags=provenance.code_tags(root) | tags | {"sweep": name},
        run_name=f"sweep {name}",
    )
    return run.info.run_id


def child(params: Params, parent_id: str, row: dict[str, Any], files: list[Path]) -> str:
    """Log a finished run under the parent, with settings, scores and files. Returns its id.

    A second call for the same point and alpha changes nothing.
    """
    from mlflow.entities import Param

    connection = client()
    experiment = experiment_id(connection, params.registry.experiment)
    name = f"{row['title']}, alpha {row['alpha']:g}"
    query = f"tags.`mlflow.parentRunId` = '{parent_id}' AND tags.point = '{row['key']}' AND tags.alpha = '{row['alpha']:g}'"
    known = connection.search_runs([experiment], f"{query} AND attributes.status = 'FINISHED'", max_results=1)
    if known:
        return known[0].info.run_id
    tags = {
        "mlflow.parentRunId": parent_id,
        "point": row["key"],
        "alpha": f"{row['alpha']:g}",
        "point_adapter_sha256": row["adapter_sha256"],
    }
    run_id = connection.create_run(experiment, tags=tags, run_name=name).info.run_id
    settings = {"evaluate.lora_alpha": row["alpha"], "model.pooling_shape": row["pooling_shape"]} | row["settings"]
    connection.log_batch(run_id, params=[Param(key, str(value)) for key, value in settings.items()])
    run = Run(connection, run_id)
    run.log_metrics({f"{row['benchmark']}/average{suffix}": row["average"][key] for key, suffix in BOUNDS.items()})
    run.log_metrics({f"{row['benchmark']}/{task}": score["value"] for task, score in row["tasks"].items() if score["value"] is not None})
    run.flush()
    for file in files:
        run.log_artifacts(file)
    connection.set_terminated(run_id, "FINISHED")
    return run_id


BOUNDS = {"value": "", "low": "_low", "high": "_high"}


def finish(parent_id: str, folder: Path | None, scores: dict[str, float], status: str) -> None:
    """Log the scores and the report's folder into the parent run, and end it. status: FINISHED, FAILED or KILLED."""
    run = Run(client(), parent_id)
    run.log_metrics(scores)
    run.flush()
    if folder is not None:
        run.log_artifacts(folder, "sweep")
    client().set_terminated(parent_id, status)
