"""Which model answers: the one asked for, else the champion, else the newest training, else the base. One rule for ask, demo and deploy."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.params import Params

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from pllava.chat import VideoChat

TRAINED = Path("outputs/train/adapter")
PARAMETERS_OF_A_TOY = 100e6  # a model below this is no PLLaVA, and the page says so


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded, and where it comes from."""

    name: str  # for people: "pllava version 3 (champion)"
    base: str  # folder or hub id
    adapter: str | None
    template: str
    why: str  # why this one
    version: int | None = None
    adapter_sha256: str | None = None
    num_frames: int | None = None  # None: what the checkpoint says
    pooling_shape: tuple[int, int, int] | None = None
    lora_alpha: float | None = None  # None: as trained
    turns: str = "conversation"  # "independent": trained on questions that do not see each other, so it is given no history
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    lineage: dict[str, str] = field(default_factory=dict)  # what the answer can be walked back to


def choose(params: Params, model: str | None = None, adapter: str | None = None, template: str | None = None) -> ModelSource:
    """Decide which model answers; nothing is loaded. Raises PllavaError when the model asked for is not there."""
    if model is None and adapter is None:
        model, why = _default(params)
    else:
        why = "asked for"
    if model is not None and model.startswith("models:/"):
        return _registered(params, model, template, why)
    folder = Path(model) if model else None
    if adapter is None and folder is not None and (folder / "adapter_config.json").is_file():
        return _adapter(params, folder, template, why, name=str(folder))
    if folder is not None and not folder.is_dir() and not _may_be_hub_id(str(model)):
        raise PllavaError(f"{model} is not a folder, a hub id (owner/name) or a registry address (models:/NAME@champion)")
    if folder is not None and folder.is_dir() and not (folder / "config.json").is_file():
        raise PllavaError(f"{folder} holds neither adapter_config.json nor config.json: it is no model. Train one: pllava train")
    base = str(model or params.model.base)
    ours = base == params.model.base
    return ModelSource(
        name=f"{base} with {adapter}" if adapter else base,
        base=base,
        adapter=adapter,
        template=template or _template(params, base),
        why=why,
        num_frames=params.model.num_frames if ours else None,
        pooling_shape=params.model.pooling_shape if ours else None,
        dtype=params.model.dtype if ours else "auto",
        lora_alpha=params.evaluate.lora_alpha if adapter else None,
        turns=params.train.turns if ours else "conversation",
        attn_implementation=params.model.attn_implementation,
        lineage={"base": base} | ({"adapter": adapter} if adapter else {}),
    )


def load_chat(source: ModelSource, lora_alpha: float | None = None) -> VideoChat:
    """Load the model and its conversation template. lora_alpha: instead of the source's. Slow: imports torch, reads the weights."""
    from transformers.utils import logging

    import pllava

    if Path(source.base).is_dir():
        logging.disable_progress_bar()  # reading a local folder is quick; a download keeps its bar
    lora_alpha = source.lora_alpha if lora_alpha is None else lora_alpha
    if source.adapter and (Path(source.adapter) / "config.yaml").is_file():
        model, processor = pllava.load(
            source.adapter, lora_alpha=lora_alpha, dtype=source.dtype, attn_implementation=source.attn_implementation
        )
    else:
        model, processor = pllava.load(
            source.base,
            adapter=source.adapter,
            lora_alpha=lora_alpha,
            num_frames=source.num_frames,
            pooling_shape=source.pooling_shape,
            dtype=source.dtype,
            attn_implementation=source.attn_implementation,
        )
    return pllava.VideoChat(model, processor, template=source.template)


def describe_runtime(model: Any) -> str:
    """Device, dtype and attention a loaded model runs with."""
    parameter = next(model.parameters())
    attention = getattr(model.config, "_attn_implementation", None) or "default"
    return f"{parameter.device}, {str(parameter.dtype).removeprefix('torch.')}, {attention} attention"


def is_toy(model: Any) -> bool:
    """True for a model far smaller than any published one: what it says about real videos means nothing."""
    return sum(parameter.numel() for parameter in model.parameters()) < PARAMETERS_OF_A_TOY


def _default(params: Params) -> tuple[str, str]:
    if (version := champion(params)) is not None:
        return f"models:/{params.registry.model_name}/{version.version}", "the default"
    if (TRAINED / "manifest.json").is_file():
        return str(TRAINED), "no champion yet; the newest training"
    return params.model.base, f"no champion, nothing in {TRAINED}; the base, which has seen no video"


def champion(params: Params) -> ModelVersion | None:
    """The registry's champion, None when there is none. A registry that was never used is not made here: that takes long."""
    from pllava.registry.versions import CHAMPION, by_alias
    from pllava.tracking.store import MLFLOW_HOME, client, project_root

    if "MLFLOW_TRACKING_URI" not in os.environ and not (project_root() / MLFLOW_HOME / "mlflow.db").is_file():
        return None
    return by_alias(client(), params.registry.model_name, CHAMPION)


def _registered(params: Params, uri: str, template: str | None, why: str) -> ModelSource:
    from pllava.registry.resolve import locate
    from pllava.registry.versions import CHAMPION, by_alias, pick
    from pllava.tracking.store import client

    number, folder = locate(uri)
    name = re.split(r"[/@]", uri.removeprefix("models:/"))[0]
    version = pick(client(), name, number)
    leader = by_alias(client(), name, CHAMPION)
    is_champion = leader is not None and int(leader.version) == number
    source = _adapter(params, folder, template, why, name=f"{name} version {number}" + (" (champion)" if is_champion else ""))
    measured_at = float(version.tags["lora_alpha"]) if "lora_alpha" in version.tags else None
    alpha = params.evaluate.lora_alpha if params.evaluate.lora_alpha is not None else measured_at
    return replace(source, version=number, lora_alpha=alpha, lineage=source.lineage | _tags(version))


def _tags(version: ModelVersion) -> dict[str, str]:
    """What the registry knows about a version's making, in a reader's order."""
    commit = version.tags.get("git.commit", "")
    dirty = " and changes that were not committed" if version.tags.get("git.dirty") == "true" else ""
    data = {f"{key} (hash)": value for key, value in version.tags.items() if key.startswith("data.")}
    known = {
        "git commit": commit + dirty if commit else "",
        "params (hash)": version.tags.get("params_sha256"),
        **data,
        "dvc.lock (hash)": version.tags.get("dvc_lock_sha256"),
        "mlflow run": version.run_id,
        "flow run": version.tags.get("flow_run_id"),
        "packages": ", ".join(
            f"{key.removeprefix('version.')} {value}" for key, value in sorted(version.tags.items()) if "version." in key
        ),
    }
    return {key: value for key, value in known.items() if value}


def _adapter(params: Params, folder: Path, template: str | None, why: str, name: str) -> ModelSource:
    """An adapter folder. Ours says all that is needed; one of plain PEFT goes on the base of the params."""
    config: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    if (folder / "config.yaml").is_file():
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text()) or {}
        except yaml.YAMLError as error:
            raise PllavaError(f"{folder}/config.yaml is not YAML: {error}. Fetch or train the adapter again") from None
        if not (folder / "manifest.json").is_file():
            raise PllavaError(f"{folder} has no manifest.json: it was not written to the end. Train again: pllava train")
        manifest = read_json(folder / "manifest.json")
    section = config.get("model", {})
    base = str(config.get("base") or section.get("base") or params.model.base)
    return ModelSource(
        name=name,
        base=base,
        adapter=str(folder),
        template=template or config.get("template") or section.get("template") or _template(params, base),
        why=why,
        adapter_sha256=manifest.get("adapter_sha256"),
        lora_alpha=params.evaluate.lora_alpha,
        turns=config.get("train", {}).get("turns", "conversation"),
        dtype=section.get("dtype") or params.model.dtype,
        attn_implementation=params.model.attn_implementation,
        lineage={"base": base} | {key: str(manifest[key]) for key in ("adapter_sha256", "base_sha256") if manifest.get(key)},
    )


def _may_be_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _template(params: Params, base: str) -> str:
    """What a base is talked to with: as the params say where it is theirs; else the published 34B stands on Yi and has its role
    markers, 7B and 13B stand on Vicuna."""
    if base == params.model.base:
        return params.model.template
    return "yi" if "34b" in base.lower() else "vicuna"
