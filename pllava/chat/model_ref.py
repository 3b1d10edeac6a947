"""How every command and server names a model: `ModelRef.parse("models:/pllava@champion").load()`.

A model is a registry address, a folder in any layout, or a hub id. A reference also holds the adapter, its lora_alpha, the number of
frames, pooling, dtype and conversation template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pllava.chat.chat_template import jinja_of
from pllava.chat.template import AUTO, PUBLISHED, template_for
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.model import sources

if TYPE_CHECKING:
    from pllava.chat.video_chat import VideoChat
    from pllava.core.params import Params

TOY_PARAMETERS = 100e6  # a smaller model is a toy, and the pages of the apps say so


@dataclass(frozen=True)
class ModelRef:
    """A model that can be loaded, and its origin. Only `load` reads weights."""

    name: str  # for people: "pllava version 3 (champion)"
    base: str  # folder or hub id
    adapter: str | None
    template: str
    why: str  # why this model was chosen
    version: int | None = None
    adapter_sha256: str | None = None
    num_frames: int | None = None  # None: the value of the checkpoint
    pooling_shape: tuple[int, int, int] | None = None
    pooling_method: str | None = None
    lora_alpha: float | None = None  # None: as trained
    turns: str = "conversation"  # "independent": trained on questions that do not see each other, so a question gets no history
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    lineage: dict[str, str] = field(default_factory=dict)  # base and adapter with their hashes, as recorded with an answer

    @classmethod
    def parse(
        cls,
        model: str | None,
        adapter: str | None = None,
        template: str | None = None,
        params: Params | None = None,
        why: str = "asked for",
    ) -> ModelRef:
        """The model that `model` names: an address with a scheme, an adapter folder, a base folder, or a hub id.

        params: settings of a project. They apply when the base is the one that they name; else the checkpoint's settings apply.
        Raises PllavaError when there is no such model.
        """
        if sources.scheme_of(model):
            return _from_source(str(model), template, params, why)
        folder = Path(model) if model else None
        if adapter is None and folder is not None and (folder / "adapter_config.json").is_file():
            return _from_adapter(folder, template, params, why, name=str(folder))
        if folder is not None and not folder.is_dir() and not _may_be_hub_id(str(model)):
            raise PllavaError(f"{model} is not a folder, a hub id (owner/name) or a registry address (models:/NAME@champion)")
        if folder is not None and folder.is_dir() and not (folder / "config.json").is_file():
            raise PllavaError(f"{folder} holds neither adapter_config.json nor config.json: it is no model. Train one: pllava train")
        base = str(model or (params.model.base if params else ""))
        ref = cls(
            name=f"{base} with {adapter}" if adapter else base,
            base=base,
            adapter=adapter,
            template=template or _template(params, base),
            why=why,
            lora_alpha=params.evaluate.lora_alpha if params and adapter else None,
            attn_implementation=params.model.attn_implementation if params else "sdpa",
            lineage={"base": base} | ({"adapter": adapter} if adapter else {}),
        )
        if params is None or base != params.model.base:
            return ref
        settings = params.model
        return replace(
            ref,
            dtype=settings.dtype,
            turns=params.train.turns,
            num_frames=settings.num_frames,
            pooling_shape=settings.pooling_shape,
            pooling_method=settings.pooling_method,
        )

    def load(self, lora_alpha: float | None = None) -> VideoChat:
        """The loaded model with its conversation template. lora_alpha: instead of the reference's. Slow: imports torch, reads weights."""
        from transformers.utils import logging

        from pllava.chat.video_chat import VideoChat
        from pllava.model.load import load

        if Path(self.base).is_dir():
            logging.disable_progress_bar()  # a local folder loads quickly; a download keeps its progress bar
        lora_alpha = self.lora_alpha if lora_alpha is None else lora_alpha
        settings: dict[str, Any] = {"lora_alpha": lora_alpha, "dtype": self.dtype, "attn_implementation": self.attn_implementation}
        if self.adapter and (Path(self.adapter) / "config.yaml").is_file():  # an adapter that pllava has trained names its base
            model, processor = load(self.adapter, **settings)
        else:
            video: dict[str, Any] = {
                "num_frames": self.num_frames,
                "pooling_shape": self.pooling_shape,
                "pooling_method": self.pooling_method,
            }
            model, processor = load(self.base, adapter=self.adapter, **video, **settings)
        return VideoChat(model, processor, template=self.template)


def describe_runtime(model: Any) -> str:
    """Device, dtype and attention of a loaded model, as text."""
    parameter = next(model.parameters())
    attention = getattr(model.config, "_attn_implementation", None) or "default"
    return f"{parameter.device}, {str(parameter.dtype).removeprefix('torch.')}, {attention} attention"


def is_toy(model: Any) -> bool:
    """Whether the model is far smaller than the published ones. Its answers about real videos mean nothing."""
    return sum(parameter.numel() for parameter in model.parameters()) < TOY_PARAMETERS


def _from_source(address: str, template: str | None, params: Params | None, why: str) -> ModelRef:
    """The reference of an address with a scheme. The source adds version, lora_alpha and lineage."""
    local = sources.resolve(address)
    ref = _from_adapter(local.folder, template, params, why, name=local.name)
    configured = params.evaluate.lora_alpha if params else None
    alpha = configured if configured is not None else local.lora_alpha
    return replace(ref, version=local.version, lora_alpha=alpha, lineage=ref.lineage | local.lineage)


def _from_adapter(folder: Path, template: str | None, params: Params | None, why: str, name: str) -> ModelRef:
    """The reference of an adapter folder. A pllava adapter names its base; a plain PEFT adapter goes on the base of `params`."""
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
    base = config.get("base") or section.get("base") or (params.model.base if params else None)
    if base is None:
        raise PllavaError(f"{folder} does not say which base it belongs to. Give both: --model BASE --adapter {folder}")
    return ModelRef(
        name=name,
        base=str(base),
        adapter=str(folder),
        template=template or config.get("template") or section.get("template") or _template(params, str(base)),
        why=why,
        adapter_sha256=manifest.get("adapter_sha256"),
        lora_alpha=params.evaluate.lora_alpha if params else None,
        turns=config.get("train", {}).get("turns", "conversation"),
        dtype=section.get("dtype") or (params.model.dtype if params else "auto"),
        attn_implementation=params.model.attn_implementation if params else "sdpa",
        lineage={"base": str(base)} | {key: str(manifest[key]) for key in ("adapter_sha256", "base_sha256") if manifest.get(key)},
    )


def _may_be_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _template(params: Params | None, base: str) -> str:
    """The name of a base's conversation template: of `params` for their base, else the base's own where it has one, else a recorded one.

    "auto": a hub id that is not fetched yet. `VideoChat` decides when the files are there.
    """
    if params is not None and base == params.model.base:
        return params.model.template
    if not Path(base).is_dir() and not PUBLISHED.search(base):
        return AUTO
    return template_for(base, Path(base).is_dir() and jinja_of(Path(base)) is not None)
