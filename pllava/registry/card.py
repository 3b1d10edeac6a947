"""The model card of a version: what it is, how good it is, what it is not for, and the way back to what made it.

Its beginning is the version's description in MLflow; the whole of it lies with the model as model_card.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.core.params import Params
from pllava.tracking.provenance import own_corpora

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as MlflowRun

BUILT_IN = ("base", "tiny-llava")  # the last folders of the tiny base of this project
MODELS = (("base", "base"), ("single_frame", "one frame"), ("adapted", "adapted"))
SETTINGS = ("seed", "model", "features", "train", "data", "rendered")  # sections of params.yaml that make the weights


def card(params: Params, run: MlflowRun, measured: dict[str, Any], adapter_sha256: str) -> str:
    """Markdown."""
    tags, lora = run.data.tags, params.train.lora
    targets, pooled = ", ".join(lora.target_modules), " x ".join(str(size) for size in params.model.pooling_shape)
    dirty = " (tree not clean)" if tags.get("git.dirty") == "true" else ""
    facts = {
        "Base": f"`{params.model.base}`, {params.model.num_frames} frames pooled to {pooled} tokens",
        "Licence of the base": licence(params.model.base),
        "Adapter": f"LoRA r {lora.r}, alpha {lora.alpha:g} on {targets}, and the projector; sha256 `{adapter_sha256}`",
        "Training": f"{_length(params)} of {params.train.batch_size} clips, seed {params.seed}",
        "Code": f"git `{tags.get('git.commit', 'unknown')}`{dirty}",
        "Run": f"MLflow `{run.info.run_id}`" + (f", Prefect `{tags['flow_run_id']}`" if tags.get("flow_run_id") else ""),
    }
    if tags.get("params_sha256"):
        facts["Settings"] = f"params sha256 `{tags['params_sha256']}`, below"
    facts |= {f"Data, {item.dataset.name}": f"`{item.dataset.source}` `{item.dataset.digest}`" for item in dataset_inputs(run)}
    facts |= {f"Corpus, {name}": _corpus_text(said) for name, said in corpora_of(tags).items()}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for benchmark, metrics in measured.items():
        lines += ["", f"### {title(benchmark, metrics)}", "", metrics_table(metrics)]
    lines += ["", "### Limits", "", *(f"- {limit}" for limit in limits(params, measured))]
    settings = {key: value for key, value in params.model_dump(mode="json").items() if key in SETTINGS}
    lines += ["", "### Settings", "", "```yaml", yaml.safe_dump(settings, sort_keys=False).rstrip(), "```"]
    return "\n".join(lines)


def limits(params: Params, measured: dict[str, Any]) -> list[str]:
    """What a reader must not expect of the model."""
    found = [
        f"It sees {params.model.num_frames} frames of a clip, however long: what happens between them is not seen, sound is not heard.",
        f"Its quality is known for {', '.join(measured) or 'nothing'} only; intervals are 95 %, over the videos of that test set.",
        "Answers are generated text: they can be wrong and sound sure. Not for decisions about people.",
    ]
    if only_rendered(params):
        found.insert(0, "It was trained on rendered clips of coloured shapes and knows nothing about real video.")
    if any((metrics.get("provenance", {}).get("judge") or {}).get("kind") == "offline" for metrics in measured.values()):
        found.append("Open answers were scored offline (exact match, token F1): not comparable with numbers of a language model as judge.")
    return found


def only_rendered(params: Params) -> bool:
    """Has the model seen nothing but what `pllava render` wrote? Neither another corpus, nor by way of its base or an earlier adapter."""
    built_in = (Path(params.model.base) / "manifest.json").is_file() and Path(params.model.base).parts[-2:] == BUILT_IN
    return built_in and params.train.init_from is None and params.rendered.enabled and not own_corpora(params)


def corpora_of(tags: dict[str, str]) -> dict[str, Any]:
    """{"train.kitchen": kind, rows, licence, files and hashes} as the training recorded them."""
    return {key.removeprefix("corpus."): json.loads(value) for key, value in sorted(tags.items()) if key.startswith("corpus.")}


def _corpus_text(said: dict[str, Any]) -> str:
    files = [f"{key} `{said[key]}` `{said.get(f'{key}_hash') or 'unknown'}`" for key in ("annotations", "media") if key in said]
    rows = "unknown" if said.get("rows") is None else said["rows"]
    return f"{said['kind']}, rows: {rows}, licence: {said.get('licence') or 'not stated'}; {', '.join(files)}"


def licence(base: str) -> str:
    """What the base's own README says, else its LICENSE file; a base from the hub is looked up in the hub's cache, nothing is fetched."""
    for name in ("README.md", "MODEL_CARD.md"):
        file = _file_of(base, name)
        if file is not None and (found := re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", file.read_text(errors="replace"))):
            return found[1]
    if (file := _file_of(base, "LICENSE")) is not None:
        return next((line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()), "see its LICENSE")
    where = "in its folder" if Path(base).is_dir() else f"at hub id {base}"
    return f"not stated {where}; the weights here change that base and fall under its terms"


def _file_of(base: str, name: str) -> Path | None:
    if Path(base).is_dir():
        return Path(base) / name if (Path(base) / name).is_file() else None
    if base.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, name)
    return Path(found) if isinstance(found, str) else None


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
