"""Reading the feature store: `open_store(params)` gives training its features, or None when they are not stored.

data/features/ holds safetensors shards with one [T, P, Dv] tensor for each clip, and index.json: the settings of the features, and
for each clip its shard, shape and sha256. Each tensor is checked against its entry when it is read: a flipped byte never reaches the model.
"""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts.manifest import ManifestRow
from pllava.artifacts.pixels import UnreadableClip
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import code_sha256, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

    from pllava.core.params import Params

STORE = Path("data/features")
REMAKE = "Write it again: pllava features"
CODE = ("video", "model/processing.py", "model/modeling.py", "model/tower.py", "artifacts/pixels.py")


def open_store(params: Params, folder: Path = STORE) -> FeatureStore | None:
    """The feature store of a training, or None when the vision tower runs in every step.

    With `features.enabled: auto`, index.json decides: `pllava features` writes its decision there. Raises PllavaError when features are
    enabled and the store is missing or does not fit the settings.
    """
    if params.features.enabled == "auto" and not _index(folder)["enabled"]:
        return None
    return FeatureStore(params, folder) if params.features.enabled else None


def clip_key(row: ManifestRow) -> str:
    """Key of a clip in the store: the hash of its media file, and its start and end."""
    bound = "" if row.start is None and row.end is None else f":{row.start}:{row.end}"
    return f"{row.media_sha256}{bound}"


def settings(params: Params) -> dict[str, Any]:
    """The settings and versions that the features depend on. They are compared when a store is opened, and before its clips are reused."""
    from pllava.model import layouts

    folder = layouts.resolve(params.model.base)
    return {
        "tower_sha256": tower_sha256(folder),
        "preprocessing_sha256": sha256_of(layouts.preprocessing(folder)[1]),
        "code_sha256": code_sha256(*CODE),
        "torch": version("torch").split("+")[0],
        "transformers": version("transformers"),
        "model_dtype": params.model.dtype,
        "attn_implementation": params.model.attn_implementation,
        "num_frames": params.model.num_frames,
        "sampling": params.train.sampling,
        "dtype": params.features.dtype,
    }


def tower_sha256(folder: Path) -> str:
    """Digest of the vision tower's tensors, and of the config keys about the tower."""
    from pllava.model import layouts

    layout = layouts.read(folder)
    names = sorted(name for name in layout.base if name.startswith("vision_tower."))
    if not names:
        raise PllavaError(f"{folder}: no vision tower in here. model.base in params.yaml must name a base or a full model")
    digest = hashlib.sha256()
    for key in ("vision_config", "vision_feature_layer", "vision_feature_select_strategy"):
        digest.update(sha256_of(layout.config.get(key)).encode())
    for name in names:
        tensor = layout.base[name][:]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def digest_of(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes; about 10 ms for a clip at full size."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


class FeatureStore:
    """Features of clips, read by memory map. Raises PllavaError if the store has other settings, lacks a clip, or has changed on disk."""

    is_features = True

    def __init__(self, params: Params, folder: Path = STORE) -> None:
        index = _index(folder)
        if not index["enabled"]:
            raise PllavaError(f"{folder} was written with features.enabled false, params.yaml now says true. Run: pllava features")
        current = settings(params)
        if index["settings"] != current:
            changed = sorted(key for key in current.keys() | index["settings"] if index["settings"].get(key) != current.get(key))
            raise PllavaError(f"{folder} was made with other settings ({', '.join(changed)}). {REMAKE}")
        self.reader, self.unreadable = ShardReader(folder, index["clips"]), index["unreadable"]

    def get(self, row: ManifestRow, epoch: int = 0) -> Tensor:
        """Features [T, P, Dv] of a row's clip. Raises UnreadableClip when the clip could not be encoded."""
        key = clip_key(row)
        if key in self.unreadable:
            raise UnreadableClip(f"{row.media} (row {row.id}) could not be encoded: {self.unreadable[key]}")
        if key not in self.reader.clips:
            raise PllavaError(f"{self.reader.folder} has no features of {row.media} (row {row.id}). Write them: pllava features")
        return self.reader.get(key)


class ShardReader:
    """Tensors of a folder of shards by key, each checked against its entry {shard, shape, dtype, sha256}."""

    def __init__(self, folder: Path, clips: dict[str, dict[str, Any]]) -> None:
        self.folder, self.clips = folder, clips
        self._shards: dict[tuple[int, str], Any] = {}

    def get(self, key: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        entry = self.clips[key]
        file = self.folder / entry["shard"]
        handle = os.getpid(), entry["shard"]  # a forked worker opens its own handle
        try:
            if handle not in self._shards:
                self._shards[handle] = safe_open(file, framework="pt")
            tensor = self._shards[handle].get_tensor(key)
        except FileNotFoundError:
            raise PllavaError(f"{file} is not there, though index.json names it. {REMAKE}") from None
        except (SafetensorError, OSError) as error:
            raise PllavaError(f"{file} is damaged: {error}. {REMAKE}") from None
        shape_dtype = [*tensor.shape], str(tensor.dtype).removeprefix("torch.")
        if shape_dtype != (entry["shape"], entry["dtype"]):
            raise PllavaError(
                f"{file}: clip {key} is {shape_dtype[1]} {shape_dtype[0]}, index.json says {entry['dtype']} {entry['shape']}. {REMAKE}"
            )
        if digest_of(tensor) != entry["sha256"]:
            raise PllavaError(f"{file} has changed on disk: clip {key} has another sha256 than index.json. {REMAKE}")
        return tensor


def _index(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "index.json")
    except FileNotFoundError:
        raise PllavaError(f"{folder}/index.json is not there. Write it: pllava features") from None


def _bytes(tensor: Tensor) -> Any:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy()
