"""Reads a checkpoint folder: finds the folder, tells which of the four layouts it has, and checks its tensors against the model's.

The functions use the published names of tensors (`language_model.model.layers.0...`). `check` needs only the headers of the safetensors
files, so no weights are loaded before the check passes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from pllava.core.errors import PllavaError
from pllava.core.files import read_json

logger = logging.getLogger("pllava")

Layout = Literal["base", "adapter", "full", "peft"]
IGNORED = {
    r"(^|\.)image_newline$": "LLaVA 1.6's and OneVision's separator of image tiles; PLLaVA has no tiles",
    r"\.position_ids$": "a buffer old transformers versions stored",
    r"\.rotary_emb\.inv_freq$": "a buffer old transformers versions stored",
}
HUB_FILES = ["*.json", "*.safetensors", "*.yaml", "*.model", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """Headers of the safetensors files of one folder.

    base: the tensors of the plain model. lora: the tensors of LoRA and the projector, under their names in the file.
    Either is empty if there are none.
    """

    folder: Path
    layout: Layout
    base: dict[str, Any]  # published name -> slice, not read yet
    lora: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """config.json, or {} (a PEFT folder has none)."""
        return read_mapping_if_there(self.folder / "config.json")


def resolve(name: str | Path) -> Path:
    """The folder `name`, or the hub's cached folder of the hub id `name`. Raises PllavaError if `name` is neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or path.exists() or str(name).startswith((".", "~")) or str(name).count("/") != 1:
        raise PllavaError(f"{name}: no such folder. Give a checkpoint folder or a hub id like ermu2001/pllava-7b")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        raise PllavaError(f"{name}: no folder of this name here, and the hub can't give it: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a checkpoint. Raises PllavaError if the file holds anything else."""
    try:
        value = read_json(path)
    except OSError as error:
        raise PllavaError(f"{path} can't be read: {error}. Fetch the folder again") from None
    if not isinstance(value, dict):
        raise PllavaError(f"{path} holds a {type(value).__name__}, a mapping is needed. Fetch the folder again")
    return value


def read_mapping_if_there(path: Path) -> dict[str, Any]:
    """`read_mapping`, or {} if there is no such file."""
    return read_mapping(path) if path.exists() else {}


def preprocessing(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file with the settings of the image processor, and the settings. transformers 5 writes them into processor_config.json.

    Raises PllavaError if the folder has none.
    """
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        values = read_mapping_if_there(folder / name)
        settings = values.get(key) if key else values
        if isinstance(settings, dict) and settings:
            return folder / name, settings
    raise PllavaError(f"{folder}: no preprocessor_config.json. Copy the processor's files from the base the weights were made from")


def check_target(target: Path, *sources: str | Path | None) -> None:
    """Raises PllavaError if replacing the folder `target` by a new checkpoint would delete a source, or files that are no checkpoint.

    sources: the folders that the new checkpoint is made from.
    """
    for source in sources:
        if source is not None and target.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
            raise PllavaError(f"{target} holds {source}, which is read: it would be gone. Name another folder to write to")
    if not target.exists() and not target.is_symlink():
        return
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else ["a file's bytes"]
    if names and not {"config.json", "adapter_config.json"} & {*names}:
        raise PllavaError(
            f"{target} is no checkpoint, it holds {', '.join(names[:8])}: that would be gone. Name another folder to write to"
        )


def read_config(name: str | Path) -> dict[str, Any]:
    """config.json of a folder or a hub id. Fetches no other file of a hub id. Raises PllavaError if there is no config.json."""
    path = Path(name).expanduser()
    if path.is_dir() or str(name).count("/") != 1:
        path = resolve(name) / "config.json"
    else:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(str(name), "config.json"))
        except (OSError, ValueError) as error:
            raise PllavaError(f"{name}: no folder of this name here, and the hub can't give its config.json: {error}") from None
    if not path.exists():
        raise PllavaError(f"{path} is not there: {name} holds no model")
    return read_mapping(path)


def read(folder: Path) -> Checkpoint:
    """Headers of every tensor in the folder. Raises PllavaError if files are missing, cut off, or not safetensors."""
    slices: dict[str, Any] = {}
    for file in _weight_files(folder):
        try:
            handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise PllavaError(f"{file}: not a whole safetensors file ({error}). Fetch it again") from None
        slices |= {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
    if (folder / "adapter_config.json").exists():
        return Checkpoint(folder, "peft", {}, slices)
    lora = {key: value for key, value in slices.items() if ".lora_" in key}
    base: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key in slices.keys() - lora.keys():
        name = published_name(key)
        if name in spelled:
            raise PllavaError(f"{folder}: {' and '.join(sorted((key, spelled[name])))} are one tensor. Remove the one that is not meant")
        spelled[name], base[name] = key, slices[key]
    if not lora:
        return Checkpoint(folder, "base", base, {})
    projector = {key: value for key, value in base.items() if key.startswith("multi_modal_projector.")}
    if any(key.startswith(("vision_tower.", "language_model.")) for key in base):
        return Checkpoint(folder, "full", base, lora | projector)
    return Checkpoint(folder, "adapter", {}, slices)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files to read: the shards if there are any, else the single file, as in the published loader."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_mapping(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
            raise PllavaError(f"{index} has no weight_map, which names the file of each tensor. Fetch the folder again")
        files = sorted({folder / name for name in weight_map.values()})
    else:
        files = sorted(folder.glob("model-0*-of-*.safetensors"))
    single = [folder / name for name in ("adapter_model.safetensors", "model.safetensors") if (folder / name).exists()]
    files = files or single[:1]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise PllavaError(
            f"{folder}: {index.name} names {len(missing)} files that aren't there: {', '.join(missing)}. Fetch the folder again"
        )
    if not files:
        other = sorted(path.name for path in folder.glob("*.bin")) or sorted(path.name for path in folder.iterdir())
        raise PllavaError(
            f"{folder}: no safetensors weights; it holds {', '.join(other[:8]) or 'nothing'}. Only safetensors are read, never pickles"
        )
    return files


def published_name(key: str) -> str:
    """The published name of a base tensor. `key` may carry peft's wrapping, or be the name in any version of transformers."""
    key = key.replace("language_model.base_model.model.", "language_model.").replace(".base_layer.", ".")
    key = re.sub(r"^model\.(language_model\.|vision_tower\.|multi_modal_projector\.|image_newline$)", r"\1", key)
    key = re.sub(r"^lm_head\.", "language_model.lm_head.", key)
    key = re.sub(r"^language_model\.(?!model\.|lm_head\.)", "language_model.model.", key)  # transformers 4.52 and later
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", key)  # transformers 5.6 and later


def without_ignored(tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tensors without those of IGNORED, which a PLLaVA model does not use. Logs a warning for each pattern it leaves out."""
    kept = dict(tensors)
    for pattern, reason in IGNORED.items():
        names = [key for key in kept if re.search(pattern, key)]
        for name in names:
            del kept[name]
        if names:
            logger.warning(
                "%s: %s ignored: %s", folder, names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it", reason
            )
    return kept


def check(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any], folder: Path) -> None:
    """Raises PllavaError that lists every tensor that is missing, unexpected, or of another shape.

    expected: name -> shape. tensors: name -> an object with get_shape().
    """
    shapes = {name: tuple(value.get_shape()) for name, value in tensors.items()}
    lines = [f"  missing: {name} {list(shape)}" for name, shape in expected.items() if name not in shapes]
    lines += [f"  unexpected: {name} {list(shape)}" for name, shape in shapes.items() if name not in expected]
    lines += [
        f"  shape: {name} is {list(shapes[name])}, the config needs {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != tuple(shape)
    ]
    if lines:
        what = "1 tensor doesn't" if len(lines) == 1 else f"{len(lines)} tensors don't"
        raise PllavaError(
            f"{folder}: {what} fit the model, nothing was loaded\n"
            + "\n".join(lines)
            + "\nCheck that base and adapter belong together and that the folder is whole (pllava.load(base, adapter=...))"
        )
