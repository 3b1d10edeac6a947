"""The feature store, `pllava features`: the frozen vision tower runs once over each distinct clip of training and validation.

data/features/ holds safetensors shards with one [T, P, Dv] tensor a clip, and index.json, written last. Training reads them or runs the
tower itself (`features.enabled`): the numbers are the same to the bit, because both encode one clip at a time (`encode_clip`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.data.manifest import PREPARED, ManifestRow, read_manifest
from pllava.errors import PllavaError
from pllava.files import atomic_dir, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from pllava.params import Params

STORE = Path("data/features")
SHARD_BYTES = 256 << 20


def features(params: Params) -> Path:
    """Write data/features/. With features.enabled false the index says so, and nothing else is there."""
    if not params.features.enabled:
        with atomic_dir(STORE) as folder:
            write_json(folder / "index.json", {"enabled": False})
        return STORE
    if params.train.sampling == "rand":
        raise PllavaError(
            "train.sampling rand takes other frames every epoch, so there is nothing to encode once. "
            "Set features.enabled: false, or train.sampling: middle, in params.yaml"
        )
    rows = [row for split in ("train", "validation") for row in read_manifest(PREPARED / f"{split}.parquet") if row.media]
    clips = {clip_key(row): row for row in reversed(rows)}  # of several rows of a clip, the first
    with atomic_dir(STORE) as folder:
        index = _encode_all(params, dict(sorted(clips.items())), folder)
        write_json(folder / "index.json", index)  # last: its existence means the store is whole
    size = sum(file.stat().st_size for file in STORE.iterdir())
    print(f"{STORE}: {len(clips)} clip(s), {size / 1e6:.1f} MB on disk, {size / len(clips) / 1e3:.1f} kB a clip", file=sys.stderr)
    return STORE


def clip_key(row: ManifestRow) -> str:
    """Content and time bound of a clip: what decides its frames."""
    bound = "" if row.start is None and row.end is None else f":{row.start}:{row.end}"
    return f"{row.media_sha256}{bound}"


def encode_clip(model: Any, pixels: Tensor, dtype: str, threads: int | None = None) -> Tensor:
    """Pixels [T, 3, H, W] of ONE clip -> [T, P, Dv] in `dtype`. Never more at once: other sizes round otherwise.

    threads: CPU threads, None for those that torch has now; the numbers are the same (tests/unit/data/test_features.py).
    """
    import torch

    with torch.no_grad(), _threads(threads or torch.get_num_threads()):
        return model.vision_features(pixels).to(getattr(torch, dtype))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def settings(params: Params) -> dict[str, Any]:
    """What the stored numbers depend on besides the clips; compared when the store is opened."""
    return {
        "base": params.model.base,
        "model_dtype": params.model.dtype,
        "num_frames": params.model.num_frames,
        "sampling": params.train.sampling,
        "dtype": params.features.dtype,
    }


class FeatureStore:
    """Reads clips of data/features by memory map. Raises PllavaError if it was made with other settings or lacks a clip."""

    is_features = True

    def __init__(self, params: Params, folder: Path = STORE) -> None:
        try:
            index = read_json(folder / "index.json")
        except FileNotFoundError:
            raise PllavaError(f"{folder}/index.json is not there. Write it: pllava features") from None
        if not index["enabled"]:
            raise PllavaError(f"{folder} was written with features.enabled false, params.yaml now says true. Run: pllava features")
        if index["settings"] != settings(params):
            changed = [key for key, value in settings(params).items() if index["settings"].get(key) != value]
            raise PllavaError(f"{folder} was made with other settings ({', '.join(changed)}). Write it again: pllava features")
        self.folder, self.clips = folder, index["clips"]
        self._shards: dict[str, Any] = {}

    def get(self, row: ManifestRow, epoch: int = 0) -> Tensor:
        """[T, P, Dv] of a row's clip."""
        from safetensors import safe_open

        key = clip_key(row)
        shard = self.clips.get(key)
        if shard is None:
            raise PllavaError(f"{self.folder} has no features of {row.media} (row {row.id}). Write them: pllava features")
        if shard not in self._shards:
            self._shards[shard] = safe_open(self.folder / shard, framework="pt")
        return self._shards[shard].get_tensor(key)


def _encode_all(params: Params, clips: dict[str, ManifestRow], folder: Path) -> dict[str, Any]:
    """Encode in the order of the keys and write shards; decoding runs in worker processes, the tower here."""
    from rich.progress import track
    from safetensors.torch import save_file
    from torch.utils.data import DataLoader

    import pllava
    from pllava.data.dataset import Pixels

    model, processor = pllava.load(
        params.model.base,
        num_frames=params.model.num_frames,
        dtype=params.model.dtype,
        attn_implementation=params.model.attn_implementation,
    )
    pixels = Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
    loader = DataLoader(_Clips(list(clips.values()), pixels), batch_size=None, num_workers=params.data.workers)
    shards: list[str] = []
    where: dict[str, str] = {}
    pending: dict[str, Any] = {}

    def write() -> None:
        shards.append(f"features-{len(shards):05d}.safetensors")
        save_file(pending, folder / shards[-1])
        where.update(dict.fromkeys(pending, shards[-1]))
        pending.clear()

    held = 0
    # One thread: a clip is little work, and the decoders need the other cores.
    for key, clip in zip(track(clips, "Encoding clips"), loader, strict=True):
        pending[key] = encode_clip(model, clip.to(model.device), params.features.dtype, threads=1).cpu().contiguous()
        held += pending[key].nbytes
        if held >= SHARD_BYTES:
            write()
            held = 0
    if pending:
        write()
    return {"enabled": True, "settings": settings(params), "clips": where}


class _Clips:
    """Map-style dataset of the pixels of distinct clips."""

    def __init__(self, rows: list[ManifestRow], pixels: Any) -> None:
        self.rows, self.pixels = rows, pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor:
        return self.pixels.get(self.rows[number], 0)
