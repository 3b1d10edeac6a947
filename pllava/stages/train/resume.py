"""Checkpoints of a training: .state/train/checkpoints/step-00000100/. They lie outside of DVC outputs, which DVC deletes before a run.

A checkpoint folder appears whole or not at all; its manifest is written last. The newest `train.keep_checkpoints` folders are kept.
run.json holds the fingerprint of the training. A stopped training continues only with the same settings, data, base and library versions,
so that it ends in the same bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.errors import PllavaError
from pllava.core.files import alone, atomic_dir, read_json, write_json, writing
from pllava.core.hashing import sha256_file
from pllava.stages.train.state import State

if TYPE_CHECKING:
    from pllava.core.params import Params

FOLDER = Path(".state/train/checkpoints")
LOCK = Path(".state/train/lock")
LOCK_SECONDS = 60  # a training that was told to end may still be writing its checkpoint
CHANGEABLE = {"accelerate", "checkpoint_every", "keep_checkpoints", "max_bad_fraction"}  # keys of `train` that may change before a resume
ROOM = "Make room and run the same command: the training goes on from its last checkpoint"
HASH_LIMIT = 1 << 30  # bytes; a larger base is identified by its files' names and sizes: hashing it would take longer than loading it


def fingerprint(params: Params, processes: int, device: str, init_from: str | None = None, sharing: str | None = None) -> dict[str, Any]:
    """Everything that the bytes of the adapter depend on, as a flat mapping: name -> value.

    The error of `Checkpoints.prepare` lists the entries that differ. init_from: hash of the weights at `train.init_from`.
    sharing: "FSDP2", "ZeRO-2", "ZeRO-3" or None. Raises PllavaError when a manifest is missing.
    """
    from importlib.metadata import version

    from pllava.artifacts.manifest import PREPARED
    from pllava.chat.template import load_template
    from pllava.tracking.provenance import flatten

    settings = params.model_dump(mode="json", include={"seed": True, "model": True, "train": True, "features": {"dtype"}})
    entries: dict[str, Any] = {key: value for key, value in flatten(settings).items() if key.removeprefix("train.") not in CHANGEABLE}
    for split in ("train", "validation"):
        manifest = PREPARED / f"{split}.parquet"
        if not manifest.is_file():
            raise PllavaError(f"{manifest} is not there. Write it: pllava prepare")
        entries[str(manifest)] = sha256_file(manifest)
    entries["base weights"] = _base_identity(Path(params.model.base))
    entries["template"] = load_template(params.model.template, params.model.base).sha256
    entries |= {"processes": processes, "device": device, "init_from weights": init_from, "sharing": sharing}
    return entries | {f"version of {name}": version(name) for name in ("torch", "transformers", "peft", "accelerate")}


def _base_identity(folder: Path) -> str | None:
    """What identifies the weights of a base folder; None for a hub id."""
    from pllava.model.adapter import base_sha256

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None  # a hub id: its name is among the settings
    small = sum(file.stat().st_size for file in files) <= HASH_LIMIT
    return base_sha256(folder) if small else json.dumps([[file.name, file.stat().st_size] for file in files])


class Checkpoints:
    """The checkpoints of one training. Only the main process calls it; every process reads the folder that `prepare` returns."""

    def __init__(self, fingerprint: Mapping[str, Any], keep: int, folder: Path = FOLDER) -> None:
        self.fingerprint, self.keep, self.folder = json.loads(json.dumps(fingerprint)), keep, folder

    def prepare(self, fresh: bool = False) -> Path | None:
        """The newest intact checkpoint to continue from. None for a new training, whose checkpoint folder is now empty.

        fresh: drop an unfinished training. Raises PllavaError when the folder holds an unfinished training of other settings or data.
        """
        run = {} if fresh else self._run()
        intact = [] if run.get("finished", True) else self.intact()
        if intact and run.get("fingerprint") != self.fingerprint:
            raise PllavaError(self._refusal(run["fingerprint"], intact[-1]))
        if intact:
            for partial in self.folder.glob(".step-*.partial"):  # from a process that was killed while it wrote
                shutil.rmtree(partial, ignore_errors=True)
            for folder in self.folder.glob("step-*"):
                if folder not in intact:  # a damaged checkpoint would count among the newest that are kept
                    shutil.rmtree(folder)
            return intact[-1]
        shutil.rmtree(self.folder, ignore_errors=True)
        write_json(self.folder / "run.json", {"fingerprint": self.fingerprint, "finished": False})
        return None

    def _run(self) -> dict[str, Any]:
        """The content of run.json; {} when there is none. Raises PllavaError when the file is damaged."""
        file = self.folder / "run.json"
        try:
            run = read_json(file)
        except FileNotFoundError:
            return {}
        except PllavaError:
            run = None
        if not isinstance(run, dict) or not isinstance(run.get("fingerprint"), dict) or "finished" not in run:
            raise PllavaError(f"{file} does not say which training began here: it is damaged. Start afresh: pllava train --fresh")
        return run

    def intact(self) -> list[Path]:
        """Checkpoints whose files all match their manifest, oldest first. A damaged checkpoint is printed and left out."""
        intact = []
        for folder in sorted(self.folder.glob("step-*")):
            if _is_intact(folder):
                intact.append(folder)
            else:
                print(f"{folder} is damaged, an older checkpoint is used", file=sys.stderr)
        return intact

    def save(self, step: int, state: State, write_more: Callable[[Path], None] | None = None) -> Path:
        """Write a checkpoint, then remove the oldest ones above `keep`. Returns its folder.

        write_more: called with the unfinished folder, to add files to it.
        """
        from safetensors.torch import save_file

        target = self.folder / f"step-{step:08d}"
        with writing(target, ROOM), atomic_dir(target) as partial:
            save_file(state.tensors, partial / "state.safetensors")
            write_json(partial / "state.json", {**state.values, "step": step})
            if write_more:
                write_more(partial)
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            write_json(partial / "manifest.json", {file.relative_to(partial).as_posix(): sha256_file(file) for file in files})
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old)
        return target

    def finish(self) -> None:
        """Mark the training as done. Its checkpoints stay until the next training begins."""
        write_json(self.folder / "run.json", {"fingerprint": self.fingerprint, "finished": True})

    def discard(self) -> None:
        """Remove every checkpoint of this training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _refusal(self, stored: Mapping[str, Any], newest: Path) -> str:
        """The error that lists what differs from the fingerprint of the unfinished training."""
        current = self.fingerprint
        keys = sorted({key for key in (*stored, *current) if stored.get(key) != current.get(key)})
        lines = "\n".join(f"  {key}: {_short(stored.get(key))} when it began, {_short(current.get(key))} now" for key in keys)
        return (
            f"an unfinished training is in {self.folder} ({newest.name}), and this would not be the same one:\n{lines}\n"
            "Take these back and run again to go on with it, or drop it and start afresh: pllava train --fresh"
        )


def read(folder: Path) -> State:
    """The state that a checkpoint folder holds."""
    from safetensors.torch import load_file

    return State(load_file(folder / "state.safetensors"), read_json(folder / "state.json"))


def sole_training() -> AbstractContextManager[None]:
    """Allow one training at a time in a project folder. Raises PllavaError when another training still runs after LOCK_SECONDS."""
    return alone(LOCK, f"another training is running in {Path.cwd()}", LOCK_SECONDS)


def _is_intact(folder: Path) -> bool:
    try:
        manifest = read_json(folder / "manifest.json")
        return all(sha256_file(folder / name) == digest for name, digest in manifest.items())
    except (OSError, PllavaError, AttributeError):
        return False


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else f"{text[:16]}..."
