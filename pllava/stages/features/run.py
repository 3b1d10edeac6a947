"""The feature store, `pllava features`: the frozen vision tower runs once over each distinct clip of training and validation.

Shards are written one by one into data/.features.partial/. DVC does not know this folder and so does not delete it: after a kill the
finished shards are checked and kept. Features in an older store with the same settings are copied. The folder data/features appears whole.
The shard of a clip depends on the set of clips alone, so equal inputs give equal bytes, with or without a kill.
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
from pllava.core.files import alone, atomic_dir, read_json, replacing, write_json, writing
from pllava.core.signals import end_with_parent
from pllava.stages.features.plan import OTHER_FRAMES, clip_bytes, decide, plan_features, row_bytes, size

if TYPE_CHECKING:
    from torch import Tensor

    from pllava.core.params import Params

SHARD_BYTES = 256 << 20
LOCK = Path(".state/features/lock")
LOCK_SECONDS = 30  # the decoding processes of a killed run live on for some seconds
PARTIAL = STORE.with_name(f".{STORE.name}.partial")


def features(params: Params) -> Path:
    """Write data/features/ and return it. When features are not stored, the folder holds only an index.json with the reason.

    Raises PllavaError when `enabled: true` is impossible, when more than data.max_bad_fraction of the clips cannot be decoded, or when
    another process is running this stage.
    """
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
        if row.media:
            clips.setdefault(clip_key(row), row)  # the first row of each clip
    build = Build(params, dict(sorted(clips.items())))
    if plan.too_big:
        plan = replace(plan, bytes_there=build.stored_bytes())
    if reason := decide(params, plan):
        print(f"features: not stored, {reason}; training runs the tower in every step", file=sys.stderr)
        return _write_none(reason)
    if build.is_finished():
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
        write_json(folder / "index.json", index)  # written last: its existence means that the store is whole
    shutil.rmtree(PARTIAL)
    used = sum(file.stat().st_size for file in STORE.iterdir())
    print(f"{STORE}: {len(stored)} clip(s), {size(used)} on disk, {len(build.kept)} shard(s) kept from before", file=sys.stderr)
    return STORE


def _write_none(reason: str) -> Path:
    """Write a store without features, whose index gives the reason."""
    with atomic_dir(STORE) as folder:
        write_json(folder / "index.json", {"enabled": False, "reason": reason})
    shutil.rmtree(PARTIAL, ignore_errors=True)
    return STORE


class Build:
    """A store being built: the keys of each shard, and the finished shards in `folder`."""

    def __init__(self, params: Params, clips: dict[str, ManifestRow]) -> None:
        self.params, self.clips = params, clips
        bytes_a_clip, num_frames = clip_bytes(params), params.model.num_frames
        self.sizes = {key: row_bytes(row, bytes_a_clip, num_frames) for key, row in clips.items()}
        self.shards = _shards(self.sizes)
        self.kept: list[str] = []  # names of shards that an earlier run has finished

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the features depend on. Computing it reads the tower's weights."""
        return settings(self.params)

    @cached_property
    def folder(self) -> Path:
        import hashlib

        return PARTIAL / hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()[:16]

    def stored_bytes(self) -> int:
        """Bytes of the clips that are already encoded, by their indexes: the tensors are not checked."""
        return sum(self.sizes[key] for key in self._stored())

    def is_finished(self) -> bool:
        """Whether data/features is already the store that `run` would build. The check needs no disk space."""
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
                shutil.rmtree(other)  # shards of other settings
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
        workers = [spawn.Process(target=_encode_share, args=(self, missing[number::processes], number)) for number in range(processes)]
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

    def encode(self, names: list[str], bar: bool, device: str = "auto") -> None:
        """Write shards. Worker processes decode; the tower runs in this process."""
        from rich.progress import track

        from pllava.artifacts.pixels import Pixels
        from pllava.model.load import load

        params = self.params
        model, processor = load(params.model.base, device=device, **params.model.load_options())
        keys = [key for name in names for key in self.shards[name]]
        stored = self._stored()
        readers = {key: stored[key] for key in keys if key in stored and _is_good(stored[key], key)}
        fresh = [key for key in keys if key not in readers]
        encoded = self._encoded(
            model, [self.clips[key] for key in fresh], Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
        )
        progress = iter(track(keys, "Encoding clips", disable=not bar))
        for name in names:
            tensors: dict[str, Tensor] = {}
            bad: dict[str, str] = {}
            for key in self.shards[name]:
                next(progress)
                features = readers[key].get(key) if key in readers else next(encoded)
                if isinstance(features, str):
                    bad[key] = features
                else:
                    tensors[key] = features
            with writing(self.folder / name, "Make room and run `pllava features` again: finished shards are kept"):
                self._write(name, tensors, bad)
        next(progress, None)

    def _encoded(self, model: Any, rows: list[ManifestRow], pixels: Any) -> Iterator[Tensor | str]:
        """Features [T, P, Dv] of each row's clip, or the reason why the clip cannot be read."""
        import torch
        from torch.utils.data import DataLoader

        from pllava.model.tower import encode_clips

        params = self.params
        batch_size = max(1, torch.get_num_threads())
        loader = DataLoader(_Clips(rows, pixels), batch_size=batch_size, collate_fn=list, num_workers=params.data.workers if rows else 0)
        for batch in loader:
            good = iter(encode_clips(model, [clip for clip in batch if not isinstance(clip, str)], params.features.dtype))
            for clip in batch:
                yield clip if isinstance(clip, str) else next(good).cpu().contiguous()

    def _write(self, name: str, tensors: dict[str, Tensor], bad: dict[str, str]) -> None:
        """Write the shard, then the .json file of its contents. A shard without this file is not finished."""
        from safetensors.torch import save_file

        with replacing(self.folder / name) as temporary:
            save_file(tensors, temporary)
        entries = {
            key: {"shard": name, "shape": [*tensor.shape], "dtype": str(tensor.dtype).removeprefix("torch."), "sha256": digest_of(tensor)}
            for key, tensor in tensors.items()
        }
        write_json(self.folder / f"{name}.json", {"clips": entries, "unreadable": bad})

    def _contents(self, name: str) -> dict[str, Any] | None:
        """The contents file of a shard; None when it is missing or damaged."""
        try:
            return read_json(self.folder / f"{name}.json")
        except (FileNotFoundError, PllavaError):
            return None

    def _is_whole(self, name: str, keys: list[str]) -> bool:
        """Whether the shard is finished, holds exactly these clips, and all of its tensors are intact."""
        contents = self._contents(name)
        if contents is None or sorted([*contents["clips"], *contents["unreadable"]]) != keys or contents["unreadable"]:
            return False  # clips that could not be read are tried again
        reader = ShardReader(self.folder, contents["clips"])  # one reader for all keys: opening a shard reads its whole header
        return all(_is_good(reader, key) for key in keys)

    def _stored(self) -> dict[str, ShardReader]:
        """A reader for each clip that is already encoded with these settings, in data/features or in the shards of a killed run."""
        readers: dict[str, ShardReader] = {}
        index = _read_index(STORE)
        if index.get("settings") == self.settings:
            readers |= dict.fromkeys(index["clips"], ShardReader(STORE, index["clips"]))
        for file in sorted(self.folder.glob("*.safetensors.json")):
            if contents := self._contents(file.name.removesuffix(".json")):
                readers |= dict.fromkeys(contents["clips"], ShardReader(self.folder, contents["clips"]))
        return {key: reader for key, reader in readers.items() if key in self.clips}

    def index(self) -> tuple[dict[str, Any], dict[str, str]]:
        """(key -> entry of each stored clip, key -> reason for each clip that could not be read), both sorted by key."""
        contents = [read_json(self.folder / f"{name}.json") for name in self.shards]
        clips = {key: entry for content in contents for key, entry in content["clips"].items()}
        return clips, {key: reason for content in contents for key, reason in content["unreadable"].items()}


def _shards(sizes: dict[str, int]) -> dict[str, list[str]]:
    """Name -> keys of each shard. A shard is full when the planned sizes of its clips reach SHARD_BYTES."""
    shards: list[list[str]] = []
    room = 0
    for key, needed in sizes.items():
        if room <= 0:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(key)
        room -= needed
    return {f"features-{number:05d}.safetensors": keys for number, keys in enumerate(shards)}


def _encode_share(build: Build, names: list[str], number: int) -> None:
    """Encode the shards of one of several processes."""
    import torch

    end_with_parent()
    gpus = torch.cuda.device_count()
    if not gpus:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // build.params.features.processes))
    try:
        build.encode(names, number == 0, f"cuda:{number % gpus}" if gpus else "auto")
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


class _Clips:
    """Map-style dataset of the pixels of distinct clips. For a clip that cannot be read the item is the reason, a string."""

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
    """Whether a stored tensor matches its entry in the index."""
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
    """Hard-link the file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
