"""The model card of a version: what it is, how good it is, and the way back to what made it. Shown as the version's description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pllava.params import Params

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as MlflowRun

MODELS = (("base", "base"), ("single_frame", "one frame"), ("adapted", "adapted"))


def card(params: Params, run: MlflowRun, measured: dict[str, Any], adapter_sha256: str) -> str:
    """Markdown."""
    tags, lora = run.data.tags, params.train.lora
    targets, pooled = ", ".join(lora.target_modules), " x ".join(str(size) for size in params.model.pooling_shape)
    dirty = " (tree not clean)" if tags.get("git.dirty") == "true" else ""
    facts = {
        "Base": f"`{params.model.base}`, {params.model.num_frames} frames pooled to {pooled} tokens",
        "Adapter": f"LoRA r {lora.r}, alpha {lora.alpha:g} on {targets}, and the projector; sha256 `{adapter_sha256}`",
        "Training": f"{_length(params)} of {params.train.batch_size} clips, seed {params.seed}",
        "Code": f"git `{tags.get('git.commit', 'unknown')}`{dirty}",
        "Run": f"MLflow `{run.info.run_id}`" + (f", Prefect `{tags['flow_run_id']}`" if tags.get("flow_run_id") else ""),
    }
    facts |= {f"Data, {item.dataset.name}": f"`{item.dataset.source}` `{item.dataset.digest}`" for item in dataset_inputs(run)}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for benchmark, metrics in measured.items():
        lines += ["", f"### {title(benchmark, metrics)}", "", metrics_table(metrics)]
    return "\n".join(lines)


def _length(params: Params) -> str:
    train = params.train
    return f"{train.steps} steps" if train.steps else f"{train.epochs:g} epoch(s) in steps"


def title(benchmark: str, metrics: dict[str, Any]) -> str:
    """The benchmark, with who scored it: an offline scorer's numbers must not be read as a judge's."""
    judge = metrics.get("provenance", {}).get("judge")
    return f"{benchmark}, scored by the {judge['name']}" if judge else benchmark


def dataset_inputs(run: MlflowRun) -> list[DatasetInput]:
    """The data a run was given."""
    return run.inputs.dataset_inputs if run.inputs else []


def metrics_table(metrics: dict[str, Any]) -> str:
    """Markdown table, tasks x models, percent with 95 % intervals."""
    models = metrics.get("models", {})
    columns = [(key, title) for key, title in MODELS if key in models]
    tasks = list(models[columns[-1][0]].get("tasks", {})) if columns else []
    lines = ["| task | n | " + " | ".join(title for _, title in columns) + " |", "|---|---|" + "---|" * len(columns)]
    for task in tasks:
        scores = [models[key].get("tasks", {}).get(task) for key, _ in columns]
        lines.append(f"| {task} | {(scores[-1] or {}).get('n', '')} | " + " | ".join(score_text(score) for score in scores) + " |")
    lines.append("| **average** | | " + " | ".join(score_text(models[key].get("average")) for key, _ in columns) + " |")
    return "\n".join(lines)


def score_text(score: dict[str, Any] | None) -> str:
    """{"value": 0.9, "low": 0.86, "high": 0.94} -> "90.0 (86-94)"."""
    if not score or not isinstance(score.get("value"), int | float):
        return "-"
    interval = f" ({100 * score['low']:.0f}-{100 * score['high']:.0f})" if "low" in score and "high" in score else ""
    return f"{100 * score['value']:.1f}{interval}"
