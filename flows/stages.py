"""Run the DVC stages of a folder as tasks of the calling flow, and publish their metrics as artifacts of its run."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows import links, retry
from flows.dag import Stage, read_dag
from flows.stage import run_stage
from pllava.core.files import read_json
from pllava.core.params import load_params
from pllava.registry.card import metrics_table, title


def run_stages(
    root: Path, base: Mapping[str, str] = os.environ, only: Collection[str] | None = None
) -> tuple[str | None, list[PrefectFuture[Any]]]:
    """Run each stage of root/dvc.yaml after the stages it needs. Call it in a flow.

    Returns the message of the first failure (None without one), and the futures of the stages that no other stage needs.

    After a failure, the stages that need the failed one are not run; the others are.
    base: environment variables of the stages. only: run these stages and the stages they need, instead of all.
    """
    run_id = str(flow_run.get_id() or "")
    futures: dict[str, PrefectFuture[Any]] = {}
    stages = read_dag(root)
    if only is not None:
        wanted = with_needed(stages, only)
        stages = [stage for stage in stages if stage.name in wanted]
    for stage in stages:
        task = run_stage.with_options(description=stage.description, **retry.options(stage.name))
        futures[stage.name] = task.submit(stage.name, root, run_id, base, wait_for=[futures[name] for name in stage.needs])
    needed = {name for stage in stages for name in stage.needs}
    return first_failure(list(futures.values())), [future for name, future in futures.items() if name not in needed]


def with_needed(stages: list[Stage], names: Collection[str]) -> set[str]:
    """The names, and the names of all stages they need, directly or through others."""
    needed = set(names)
    for stage in reversed(stages):  # a stage comes after the stages it needs
        if stage.name in needed:
            needed |= set(stage.needs)
    return needed


def first_failure(futures: list[PrefectFuture[Any]]) -> str | None:
    """Wait for all futures. Returns the message of the first one that failed, or None."""
    for future in futures:
        future.wait()
    return next((future.state.message or "failed" for future in futures if future.state.is_failed() or future.state.is_crashed()), None)


def measured(root: Path) -> dict[str, Any]:
    """{benchmark: content of metrics/<benchmark>.json}, for the benchmarks of params.yaml. Files of removed benchmarks are ignored."""
    paths = {name: root / "metrics" / f"{name}.json" for name in load_params(root / "params.yaml").evaluate.benchmarks}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def publish_metrics(root: Path, links_of_run: Mapping[str, str] | None = None) -> None:
    """Publish the tables of metrics as an artifact of the flow run. links_of_run: lines for the description of the MLflow run."""
    scores = measured(root)
    parts = [f"## {title(name, metrics)}\n\n{metrics_table(metrics)}\n" for name, metrics in scores.items()]
    digest = next((metrics.get("provenance", {}).get("adapter_sha256") for metrics in scores.values()), None)
    parts += [line] if (line := links.run_line(digest, links_of_run)) else []
    create_markdown_artifact("\n".join(parts) or "No metrics.", key="metrics", description="Percent, with 95 % intervals")
