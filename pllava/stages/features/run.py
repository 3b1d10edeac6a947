"""The feature store, `pllava features`: the frozen vision tower runs once over each distinct clip of training and validation.

Shards are written one by one into data/.features.partial/, which DVC does not know and so does not delete: after a kill the finished
ones are checked and kept. Clips of an older store with the same settings are taken over. The folder data/features appears whole.
Which clip is in which shard depends on the clips alone, so equal inputs are equal bytes, however they were made.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts.feature_store import STORE, ShardReader, clip_key, digest_of, settings
from pllava.artifacts.manifest import PREPARED, ManifestRow, read_manifest
from pllava.artifacts.pixels import UnreadableClip
from pllava.core.errors import PllavaError
from pllava.core.files import alone, atomic_dir, read_json, write_json, writing
from pllava.stages.features.plan import OTHER_FRAMES, clip_bytes, decide, plan_features, row_bytes, size

if TYPE_CHECKING:
    from torch import Tensor

    from pllava.core.params import Params

SHARD_BYTES = 256 << 20
LOCK = Path(".state/features/lock")
LOCK_SECONDS = 30  # of one that was killed the processes that decode live on for some seconds
PARTIAL = STORE.with_name(f".{STORE.name}.partial")


def features(params: Params) -> Path:
    """Write data/features/. When features are not stored the index says why, and nothing else is there. Raises PllavaError when
    `enabled: true` cannot be, more than data.max_bad_fraction of the clips cannot be decoded, or another process is at it."""
    with alone(LOCK, f"another `pllava features` is running in {Path.cwd()}", LOCK_SECONDS):
        return _features(params)


def _features(params: Params) -> Path:
    if params.features.enabled is False:
        return _write_none("features.enabled is false")
    if params.features.enabled is True and params.train.sampling == "rand":
        raise PllavaError(f"{OTHER_FRAMES}. Set features.enabled: auto or false, or train.sampling: middle, in params.yaml")
    rows = {split: read_manifest(PREPARED / f"{split}.parquet") for split in ("train", "validation")}
    if not any(row.media for split in rows.values() for row in split):
        return _write_none("no row has a clip or a picture")
    plan = plan_features(params, rows["train"], rows["validation"])
    print(plan, file=sys.stderr)
    clips: dict[str, ManifestRow] = {}
    for row in (*rows["train"], *rows["validation"]):
        if row.media:  # else text alone
            clips.setdefault(clip_key(row), row)  # of several rows of a clip, the first
    build = Build(params, dict(sorted(clips.items())))
    if plan.too_big:
        plan = replace(plan, bytes_there=build.bytes_there())
    if reason := decide(params, plan):
        print(f"features: not stored, {reason}; training runs the tower in every step", file=sys.stderr)
        return _write_none(reason)
    if build.is_there():
        shutil.rmtree(PARTIAL, ignore_errors=True)
        print(f"{STORE}: {len(clips)} clip(s), whole from before", file=sys.stderr)
        return STORE
    build.run()
    stored, unreadable = build.index()
    if len(unreadable) > params.data.max_bad_fraction * len(clips):
        listed = "\n".join(f"  {clips[key].media}: {reason}" for key, reason in list(unreadable.items())[:10])
        raise PllavaError(
            f"{len(unreadable)} of {len(clips)} clips cannot be decoded, more than data.max_bad_fraction {params.data.max_bad_fraction}:\n"
            f"{listed}\n"
            "Mend them, or check the data again: pllava prepare"
        )
    with atomic_dir(STORE) as folder:
        for shard in sorted({entry["shard"] for entry in stored.values()}):
            _link(build.folder / shard, folder / shard)
        index = {"enabled": True, "settings": build.settings, "clips": stored, "unreadable": unreadable}
        write_json(folder / "index.json", index)  # last: its existence means the store is whole
    shutil.rmtree(PARTIAL)
    used = sum(file.stat().st_size for file in STORE.iterdir())
    print(f"{STORE}: {len(stored)} clip(s), {size(used)} on disk, {len(build.kept)} shard(s) kept from before", file=sys.stderr)
    return STORE


def _write_none(reason: str) -> Path:
    with atomic_dir(STORE) as folder:
        write_json(folder / "index.json", {"enabled": False, "reason": reason})
    shutil.rmtree(PARTIAL, ignore_errors=True)
    return STORE


class Build:
    """One store in the making: a plan of shards, the finished ones in `folder`, and where else its clips may be found."""

    def __init__(self, params: Params, clips: dict[str, ManifestRow]) -> None:
        self.params, self.clips = params, clips
        each, num_frames = clip_bytes(params), params.model.num_frames
        self.sizes = {key: row_bytes(row, each, num_frames) for key, row in clips.items()}
        self.shards = _shards(self.sizes)
        self.kept: list[str] = []

    @cached_property
    def settings(self) -> dict[str, Any]:
        return settings(self.params)  # reads the tower's weights

    @cached_property
    def folder(self) -> Path:
        import hashlib

        return PARTIAL / hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()[:16]

    def bytes_there(self) -> int:
        """Of clips that need not be encoded, as far as is said."""
        return sum(self.sizes[key] for key in self._stored())

    def is_there(self) -> bool:
        """Whether the store is what this would end in: it takes no room to say so, on a disk that has none left."""
        index = _read_index(STORE)
        shards = {key: entry["shard"] for key, entry in index.get("clips", {}).items()}
        if index.get("settings") != self.settings or shards != {key: name for name, keys in self.shards.items() for key in keys}:
            return False
        reader = ShardReader(STORE, index["clips"])
        return {file.name for file in STORE.iterdir()} == {"index.json", *self.shards} and all(_is_good(reader, key) for key in shards)

    def run(self) -> None:
        """Encode what is missing, in `features.processes` processes that take shards in turn."""
        for other in PARTIAL.glob("*"):
            if other != self.folder:
                shutil.rmtree(other)  # of other settings: no use any more
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kept = [name for name, keys in self.shards.items() if self._is_whole(name, keys)]
        missing = [name for name in self.shards if name not in self.kept]
        if self.kept:
            print(f"features: {len(self.kept)} of {len(self.shards)} shard(s) are finished and whole: kept", file=sys.stderr)
        processes = min(self.params.features.processes, len(missing))
        if processes < 2:
            if missing:
                self.encode(missing, bar=True)
            return
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
        workers = [
            spawn.Process(target=_encode_share, args=(self, missing[number::processes], number, os.getpid())) for number in range(processes)
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.terminate()
        if any(worker.exitcode for worker in workers):
            raise PllavaError(
                "a process that encodes clips has failed; the reason is printed above. Finished shards are kept: pllava features"
            )

    def encode(self, names: list[str], bar: bool, device: str = "auto", alive: Any = None) -> None:
        """Write shards. Decoding runs in worker processes, the tower here."""
        from rich.progress import track

        from pllava.artifacts.pixels import Pixels
        from pllava.model.load import load

        params = self.params
        model, processor = load(
            params.model.base,
            num_frames=params.model.num_frames,
            dtype=params.model.dtype,
            device=device,
            attn_implementation=params.model.attn_implementation,
        )
        keys = [key for name in names for key in self.shards[name]]
        stored = self._stored()
        before = {key: stored[key] for key in keys if key in stored and _is_good(stored[key], key)}
        fresh = [key for key in keys if key not in before]
        encoded = self._encoded(
            model, [self.clips[key] for key in fresh], Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
        )
        progress = iter(track(keys, "Encoding clips", disable=not bar))
        for name in names:
            tensors: dict[str, Tensor] = {}
            bad: dict[str, str] = {}
            for key in self.shards[name]:
                next(progress)
                found = before[key].get(key) if key in before else next(encoded)
                if isinstance(found, str):
                    bad[key] = found
                else:
                    tensors[key] = found
            if alive is not None and not alive():
                raise PllavaError("the process that started this one has ended")
            with writing(self.folder / name, "Make room and run `pllava features` again: finished shards are kept"):
                self._write(name, tensors, bad)
        next(progress, None)

    def _encoded(self, model: Any, rows: list[ManifestRow], pixels: Any) -> Iterator[Tensor | str]:
        """Features of each row's clip, or why it has none."""
        import torch
        from torch.utils.data import DataLoader

        from pllava.model.tower import encode_clips

        params = self.params
        together = max(1, torch.get_num_threads())
        loader = DataLoader(_Clips(rows, pixels), batch_size=together, collate_fn=list, num_workers=params.data.workers if rows else 0)
        for batch in loader:
            good = iter(encode_clips(model, [clip for clip in batch if not isinstance(clip, str)], params.features.dtype))
            for clip in batch:
                yield clip if isinstance(clip, str) else next(good).cpu().contiguous()

    def _write(self, name: str, tensors: dict[str, Tensor], bad: dict[str, str]) -> None:
        """The shard, then what is in it: a shard without that is not finished."""
        from safetensors.torch import save_file

        temporary = self.folder / f".{name}.{os.getpid()}.partial"
        save_file(tensors, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)
        entries = {
            key: {"shard": name, "shape": [*tensor.shape], "dtype": str(tensor.dtype).removeprefix("torch."), "sha256": digest_of(tensor)}
            for key, tensor in tensors.items()
        }
        write_json(self.folder / f"{name}.json", {"clips": entries, "unreadable": bad})

    def _contents(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / f"{name}.json")
        except (FileNotFoundError, PllavaError):
            return None

    def _is_whole(self, name: str, keys: list[str]) -> bool:
        contents = self._contents(name)
        if contents is None or sorted([*contents["clips"], *contents["unreadable"]]) != keys or contents["unreadable"]:
            return False  # what could not be read is tried again
        reader = ShardReader(self.folder, contents["clips"])  # one: opening a shard reads all of its header
        return all(_is_good(reader, key) for key in keys)

    def _stored(self) -> dict[str, ShardReader]:
        """Clips that are already encoded with these settings: in data/features, or in shards of a run that was killed."""
        found: dict[str, ShardReader] = {}
        index = _read_index(STORE)
        if index.get("settings") == self.settings:
            found |= dict.fromkeys(index["clips"], ShardReader(STORE, index["clips"]))
        for file in sorted(self.folder.glob("*.safetensors.json")):
            if contents := self._contents(file.name.removesuffix(".json")):
                found |= dict.fromkeys(contents["clips"], ShardReader(self.folder, contents["clips"]))
        return {key: reader for key, reader in found.items() if key in self.clips}

    def index(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Entries of all clips, and those that could not be read, each sorted by key."""
        contents = [read_json(self.folder / f"{name}.json") for name in self.shards]
        clips = {key: entry for content in contents for key, entry in content["clips"].items()}
        return clips, {key: reason for content in contents for key, reason in content["unreadable"].items()}


def _shards(sizes: dict[str, int]) -> dict[str, list[str]]:
    """Keys of each shard, in order, by the size the clips are planned to have."""
    shards: list[list[str]] = []
    room = 0
    for key, needed in sizes.items():
        if room <= 0:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(key)
        room -= needed
    return {f"features-{number:05d}.safetensors": keys for number, keys in enumerate(shards)}


def _encode_share(build: Build, names: list[str], number: int, parent: int) -> None:
    """What one of several processes does."""
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // build.params.features.processes))
    try:
        build.encode(names, number == 0, f"cuda:{number % gpus}" if gpus else "auto", lambda: os.getppid() == parent)
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


class _Clips:
    """Map-style dataset of the pixels of distinct clips; a clip that cannot be read is the reason, a string."""

    def __init__(self, rows: list[ManifestRow], pixels: Any) -> None:
        self.rows, self.pixels = rows, pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            return self.pixels.get(self.rows[number], 0)
        except UnreadableClip as error:
            return str(error)


def _is_good(reader: ShardReader, key: str) -> bool:
    try:
        reader.get(key)
    except PllavaError:
        return False
    return True


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "index.json")
    except (FileNotFoundError, PllavaError):
        return {}


def _link(source: Path, target: Path) -> None:
    """The same file under another name, where the file system can; a copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
