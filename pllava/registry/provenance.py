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

from pllava.files import sha256_file
from pllava.params import Params

PACKAGES = ("pllava", "torch", "transformers", "peft", "accelerate", "decord2", "av", "dvc", "mlflow", "prefect")
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
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    tags = {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if dirty is None else str(bool(dirty)).lower(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "flow_run_id": os.environ.get("PLLAVA_FLOW_RUN_ID", ""),
    }
    if commit:
        tags["mlflow.source.git.commit"] = commit  # the name under which MLflow's pages show it
    for name in PACKAGES:
        try:
            tags[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            tags[f"version.{name}"] = "not installed"
    return tags


def dataset_digests(root: Path, params: Params) -> dict[str, tuple[str, str]]:
    """{name: (path, digest)} of what training read, with the hash that dvc.lock records; without one, of our own manifest."""
    locked = _locked_hashes(root)
    found: dict[str, tuple[str, str]] = {}
    for name, path in (("prepared", "data/prepared"), ("media", str(params.rendered.root)), ("base", params.model.base)):
        if digest := locked.get(path) or _folder_digest(root / path):
            found[name] = (path, digest[:DIGEST_LENGTH])
    return found


def _locked_hashes(root: Path) -> dict[str, str]:
    """{path: md5} of every output and dependency in dvc.lock."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        return {}
    stages = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    entries = [entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, [])]
    return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}


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
