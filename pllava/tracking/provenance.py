"""Where a model comes from, as MLflow tags, parameters and dataset inputs: git, package versions, the flow run, hashes of the data."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pllava.core.hashing import sha256_file, sha256_of
from pllava.core.params import Params

PACKAGES = ("pllava", "torch", "transformers", "peft", "accelerate", "decord2", "av", "dvc", "mlflow", "prefect")
RECORDS = ("dvc.lock", "metrics/")  # tracked files that a run of the pipeline renews
CHANGED_LENGTH = 500  # characters of the list of changed files
DIGEST_LENGTH = 36  # MLflow's limit; an md5 of DVC with its ".dir" fits exactly


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters: {"train": {"lora": {"r": 64}}} -> {"train.lora.r": "64"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            flat.update(flatten({str(index): item for index, item in enumerate(value)}, f"{name}."))
        else:
            flat[name] = str(value)
    return flat


def code_tags(root: Path) -> dict[str, str]:
    """Git commit and whether the tree differs from it, package versions, and the flow run that started us."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = changed_files(root)
    tags = {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "flow_run_id": os.environ.get("PLLAVA_FLOW_RUN_ID", ""),
    }
    if changed:
        tags["git.changed"] = ", ".join(changed)[:CHANGED_LENGTH]
    if reproduced := os.environ.get("PLLAVA_REPRODUCES"):
        tags["reproduces"] = reproduced
    if commit:
        tags["mlflow.source.git.commit"] = commit  # the name under which MLflow's pages show it
    for name in PACKAGES:
        try:
            tags[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            tags[f"version.{name}"] = "not installed"
    return tags


def changed_files(root: Path) -> list[str] | None:
    """Tracked files that differ from the commit, None without git. What the pipeline itself writes (RECORDS) does not count."""
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    if status is None:
        return None
    files = [line.strip().split(maxsplit=1)[1].split(" -> ")[-1] for line in status.splitlines()]
    return sorted(file for file in files if not file.startswith(RECORDS))


def params_sha256(params: Params) -> str:
    """Hash of the settings, as they were understood: comments, order, defaults left out and how one stops make no difference."""
    return sha256_of(params.model_dump(mode="json", exclude={"run"}))


def dataset_digests(root: Path, params: Params) -> dict[str, tuple[str, str]]:
    """{name: (path, digest)} of what training read, as DVC hashes it; outside DVC, a hash of the folder's index files."""
    locked = _locked_hashes(root)
    paths = {"prepared": "data/prepared", "media": str(params.rendered.root), "base": params.model.base}
    if not params.rendered.enabled:
        del paths["media"]
        paths |= {f"media.{corpus.name}": str(corpus.media) for corpus in params.data.train if corpus.kind != "text"}
    found: dict[str, tuple[str, str]] = {}
    for name, path in paths.items():
        if digest := locked.get(path) or _added_hash(root, path) or _folder_digest(root / path):
            found[name] = (path, digest[:DIGEST_LENGTH])
    return found


def _locked_hashes(root: Path) -> dict[str, str]:
    """{path: md5} of what the stages of dvc.yaml made and read.

    While a stage runs, dvc.lock still says what the stages after it read last time. So what a stage made counts before what another one
    read, and an earlier reader before a later one.
    """
    if not (root / "dvc.lock").is_file():
        return {}
    locked: dict[str, Any] = (yaml.safe_load((root / "dvc.lock").read_text()) or {}).get("stages", {})
    order = list((yaml.safe_load((root / "dvc.yaml").read_text()) or {}).get("stages", {})) if (root / "dvc.yaml").is_file() else []
    place = {name: index for index, name in enumerate(order)}  # dvc.lock has them in the order they first ran
    stages = sorted(locked.items(), key=lambda item: place.get(item[0].split("@")[0], len(order)))
    hashes: dict[str, str] = {}
    for kind in ("outs", "deps"):
        for _, stage in stages:
            for entry in stage.get(kind, []):
                if "md5" in entry:
                    hashes.setdefault(entry["path"], entry["md5"])
    return hashes


def _added_hash(root: Path, path: str) -> str | None:
    """The hash of a folder that `dvc add` tracks, or of the nearest folder above it that is tracked: in its .dvc file."""
    place = root / path
    for folder in (place, *place.parents):
        if not folder.name:  # a path outside the project leads up to the root
            break
        file = folder.with_name(f"{folder.name}.dvc")
        if file.is_file():
            return (yaml.safe_load(file.read_text()) or {}).get("outs", [{}])[0].get("md5")
        if folder == root:
            break
    return None


def _folder_digest(folder: Path) -> str | None:
    """A hash over a folder's small index files, for runs outside DVC. None when there is nothing to hash."""
    files = sorted(path for pattern in ("*.parquet", "*.json", "*.safetensors") for path in folder.glob(pattern))
    if not files:
        return None
    lines = "\n".join(f"{path.name} {sha256_file(path)}" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command; None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
