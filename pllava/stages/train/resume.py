"""Checkpoints of a training: .state/train/checkpoints/step-00000100/, outside DVC's outputs (those are deleted before a stage runs).

A folder appears whole or not at all, its manifest written last; the last `train.keep_checkpoints` stay. run.json says what the training
depends on: one that was stopped goes on only with the same settings, data, base and versions, so that it ends in the same bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
FREE = {"accelerate", "checkpoint_every", "keep_checkpoints", "max_bad_fraction"}  # keys of train that may change between start and resume
ROOM = "Make room and run the same command: the training goes on from its last checkpoint"
LISTED_ABOVE = 1 << 30  # bytes; a larger base is told by names and sizes of its files: hashing would take longer than loading


def fingerprint(params: Params, processes: int, device: str, init_from: str | None = None, sharing: str | None = None) -> dict[str, Any]:
    """What the bytes of the adapter depend on, flat: the difference of two of these is what the user reads."""
    from importlib.metadata import version

    from pllava.artifacts.manifest import PREPARED
    from pllava.chat.template import load_template
    from pllava.tracking.provenance import flatten

    settings = params.model_dump(mode="json", include={"seed": True, "model": True, "train": True, "features": {"dtype"}})
    found: dict[str, Any] = {key: value for key, value in flatten(settings).items() if key.removeprefix("train.") not in FREE}
    for split in ("train", "validation"):
        manifest = PREPARED / f"{split}.parquet"
        if not manifest.is_file():
            raise PllavaError(f"{manifest} is not there. Write it: pllava prepare")
        found[str(manifest)] = sha256_file(manifest)
    found["base weights"] = _base(Path(params.model.base))
    found["template"] = load_template(params.model.template).sha256
    found |= {"processes": processes, "device": device, "init_from weights": init_from, "sharing": sharing}
    return found | {f"version of {name}": version(name) for name in ("torch", "transformers", "peft", "accelerate")}


def _base(folder: Path) -> str | None:
    from pllava.model.adapter import base_sha256

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None  # a hub id: its name is among the settings
    small = sum(file.stat().st_size for file in files) <= LISTED_ABOVE
    return base_sha256(folder) if small else json.dumps([[file.name, file.stat().st_size] for file in files])


class Checkpoints:
    """Those of one training. Only the main process writes; `resume` is read by all."""

    def __init__(self, wanted: Mapping[str, Any], keep: int, folder: Path = FOLDER) -> None:
        self.wanted, self.keep, self.folder = json.loads(json.dumps(wanted)), keep, folder

    def prepare(self, fresh: bool = False) -> Path | None:
        """The newest whole checkpoint to go on from; None for a training that begins, whose folder is now empty.

        Raises PllavaError when an unfinished training of other settings or data is there.
        """
        run = {} if fresh else self._run()
        whole = [] if run.get("finished", True) else self.whole()
        if whole and run.get("fingerprint") != self.wanted:
            raise PllavaError(self._refusal(run["fingerprint"], whole[-1]))
        if whole:
            for left in self.folder.glob(".step-*.partial"):  # of a process that was killed while it wrote
                shutil.rmtree(left, ignore_errors=True)
            for damaged in self.folder.glob("step-*"):  # else they would count among those to keep
                if damaged not in whole:
                    shutil.rmtree(damaged)
            return whole[-1]
        shutil.rmtree(self.folder, ignore_errors=True)
        write_json(self.folder / "run.json", {"fingerprint": self.wanted, "finished": False})
        return None

    def _run(self) -> dict[str, Any]:
        """What began here, {} where nothing did."""
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

    def whole(self) -> list[Path]:
        """Checkpoints whose every file is what its manifest says, oldest first; a damaged one is named and passed over."""
        found = []
        for folder in sorted(self.folder.glob("step-*")):
            if _is_whole(folder):
                found.append(folder)
            else:
                print(f"{folder} is damaged, an older checkpoint is used", file=sys.stderr)
        return found

    def save(self, step: int, state: State, write_more: Callable[[Path], None] | None = None) -> Path:
        """Write one, then remove those that are too many. write_more: adds files of its own to the folder."""
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
        """The training is done: the next one begins anew. Its checkpoints stay until then."""
        write_json(self.folder / "run.json", {"fingerprint": self.wanted, "finished": True})

    def discard(self) -> None:
        """Nothing here is worth going on from."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _refusal(self, found: Mapping[str, Any], newest: Path) -> str:
        keys = sorted({key for key in (*found, *self.wanted) if found.get(key) != self.wanted.get(key)})
        lines = "\n".join(f"  {key}: {_short(found.get(key))} when it began, {_short(self.wanted.get(key))} now" for key in keys)
        return (
            f"an unfinished training is in {self.folder} ({newest.name}), and this would not be the same one:\n{lines}\n"
            "Take these back and run again to go on with it, or drop it and start afresh: pllava train --fresh"
        )


def read(folder: Path) -> State:
    """A checkpoint's state."""
    from safetensors.torch import load_file

    return State(load_file(folder / "state.safetensors"), read_json(folder / "state.json"))


@contextmanager
def sole_training(path: Path = LOCK) -> Iterator[None]:
    """One training a project folder. The lock goes with its process, however that ends. Raises PllavaError when another one stays."""
    with alone(path, f"another training is running in {Path.cwd()}", LOCK_SECONDS):
        yield


def _is_whole(folder: Path) -> bool:
    try:
        manifest = read_json(folder / "manifest.json")
        return all(sha256_file(folder / name) == digest for name, digest in manifest.items())
    except (OSError, PllavaError, AttributeError):
        return False


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else f"{text[:16]}..."
