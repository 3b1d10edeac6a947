"""The model card of a version: base, adapter, scores, limits, and the code, data and settings of its training.

The beginning of the card is the version's description in MLflow. The whole card is stored with the model as model_card.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.artifacts.metrics import score_text
from pllava.core.params import Params
from pllava.tracking.provenance import own_corpora, stated_licence

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as MlflowRun

BUILT_IN = ("base", "tiny-llava")  # last two parts of the path of this project's tiny base
MODELS = (("base", "base"), ("single_frame", "one frame"), ("adapted", "adapted"))
SETTINGS = ("seed", "model", "features", "train", "data", "rendered")  # sections of params.yaml that determine the weights


def card(params: Params, run: MlflowRun, measured: dict[str, Any], adapter_sha256: str) -> str:
    """The model card as Markdown. measured: {benchmark: content of its metrics file}."""
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
    facts |= {f"Corpus, {name}": _corpus_text(corpus) for name, corpus in corpora_of(tags).items()}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for benchmark, metrics in measured.items():
        lines += ["", f"### {title(benchmark, metrics)}", "", metrics_table(metrics)]
    lines += ["", "### Limits", "", *(f"- {limit}" for limit in limits(params, measured))]
    settings = {key: value for key, value in params.model_dump(mode="json").items() if key in SETTINGS}
    lines += ["", "### Settings", "", "```yaml", yaml.safe_dump(settings, sort_keys=False).rstrip(), "```"]
    return "\n".join(lines)


def limits(params: Params, measured: dict[str, Any]) -> list[str]:
    """Sentences on what the model can't do and where its scores don't apply."""
    sentences = [
        f"It sees {params.model.num_frames} frames of a clip, however long: what happens between them is not seen, sound is not heard.",
        f"Its quality is known for {', '.join(measured) or 'nothing'} only; intervals are 95 %, over the videos of that test set.",
        "Answers are generated text: they can be wrong and sound sure. Not for decisions about people.",
    ]
    if only_rendered(params):
        sentences.insert(0, "It was trained on rendered clips of coloured shapes and knows nothing about real video.")
    if any((metrics.get("provenance", {}).get("judge") or {}).get("kind") == "offline" for metrics in measured.values()):
        sentences.append(
            "Open answers were scored offline (exact match, token F1): not comparable with numbers of a language model as judge."
        )
    return sentences


def only_rendered(params: Params) -> bool:
    """Whether the model was trained on rendered clips only, with the built-in base, no earlier adapter and no other corpus."""
    built_in = (Path(params.model.base) / "manifest.json").is_file() and Path(params.model.base).parts[-2:] == BUILT_IN
    return built_in and params.train.init_from is None and params.rendered.enabled and not own_corpora(params)


def corpora_of(tags: dict[str, str]) -> dict[str, Any]:
    """{"train.kitchen": kind, rows, licence, files and hashes} as the training recorded them."""
    return {key.removeprefix("corpus."): json.loads(value) for key, value in sorted(tags.items()) if key.startswith("corpus.")}


def _corpus_text(corpus: dict[str, Any]) -> str:
    files = [f"{key} `{corpus[key]}` `{corpus.get(f'{key}_hash') or 'unknown'}`" for key in ("annotations", "media") if key in corpus]
    rows = "unknown" if corpus.get("rows") is None else corpus["rows"]
    return f"{corpus['kind']}, rows: {rows}, licence: {corpus.get('licence') or 'not stated'}; {', '.join(files)}"


def licence(base: str) -> str:
    """The licence that the base's folder states. A hub base is read from the local cache; no download."""
    folder = Path(base) if Path(base).is_dir() else _cached(base)
    if folder is not None and (stated := stated_licence(folder)):
        return stated
    where = "in its folder" if Path(base).is_dir() else f"at hub id {base}"
    return f"not stated {where}; the weights here change that base and fall under its terms"


def _cached(base: str) -> Path | None:
    """The folder of a hub base's README or LICENSE in the local cache; None when they are not there."""
    from huggingface_hub import try_to_load_from_cache

    names = ("README.md", "MODEL_CARD.md", "LICENSE") if base.count("/") == 1 else ()
    return next((Path(path).parent for name in names if isinstance(path := try_to_load_from_cache(base, name), str)), None)


def _length(params: Params) -> str:
    train = params.train
    return f"{train.steps} steps" if train.steps else f"{train.epochs:g} epoch(s) in steps"


def title(benchmark: str, metrics: dict[str, Any]) -> str:
    """The benchmark's name and, for judged benchmarks, the scorer, because scores of different scorers are not comparable."""
    judge = metrics.get("provenance", {}).get("judge")
    return f"{benchmark}, scored by the {judge['name']}" if judge else benchmark


def dataset_inputs(run: MlflowRun) -> list[DatasetInput]:
    """The data sets that a run logged as inputs."""
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
