"""Where a model comes from, as MLflow tags, parameters and dataset inputs: git, package versions, the flow run, hashes of the data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pllava.core.files import read_json
from pllava.core.hashing import sha256_file, sha256_of
from pllava.core.params import Corpus, Params

PACKAGES = ("pllava", "torch", "transformers", "peft", "accelerate", "decord2", "av", "dvc", "mlflow", "prefect")
RECORDS = ("dvc.lock", "metrics/")  # tracked files that a run of the pipeline renews
CHANGED_LENGTH = 500  # characters of the list of changed files
LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license:[ \t]*(\S.*)")
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
    paths = {"prepared": "data/prepared", "base": params.model.base}
    if params.rendered.enabled:
        paths["media"] = str(params.rendered.root)
    for split, corpus in own_corpora(params):
        suffix = "" if split == "train" else f".{split}"
        paths[f"annotations.{corpus.name}{suffix}"] = str(corpus.annotations)
        if corpus.kind != "text":
            paths[f"media.{corpus.name}{suffix}"] = str(corpus.media)
    found: dict[str, tuple[str, str]] = {}
    for name, path in paths.items():
        if digest := locked.get(path) or _added_hash(root, path) or _digest(root / path):
            found[name] = (path, digest[:DIGEST_LENGTH])
    for name in [name for name in found if name.startswith("annotations.")]:
        media = found.get(f"media.{name.removeprefix('annotations.')}")
        if media and media[1] == found[name][1]:  # one tracked folder holds both
            del found[name]
    return found


def is_rendered(corpus: Corpus, params: Params) -> bool:
    """Are its annotations and its clips those that `pllava render` writes?"""
    root = params.rendered.root
    return params.rendered.enabled and corpus.annotations.is_relative_to(root) and corpus.media.is_relative_to(root)


def own_corpora(params: Params) -> list[tuple[str, Corpus]]:
    """(split, corpus) of all that training read but what `pllava render` wrote."""
    splits = {"train": params.data.train, "validation": params.data.validation}
    return [(split, corpus) for split, corpora in splits.items() for corpus in corpora if not is_rendered(corpus, params)]


def corpus_tags(root: Path, params: Params) -> dict[str, str]:
    """{"corpus.train.kitchen": JSON of its kind, rows, licence, files and their hashes}, for every corpus of training and validation.

    `rows` are those that training took (weight and max_rows applied); what is not known is null, or left out.
    """
    digests = dataset_digests(root, params)
    hashes = dict(digests.values())
    report = root / "data/prepared/report.json"
    splits = (read_json(report) if report.is_file() else {}).get("splits", {})
    tags = {}
    for split, corpora in (("train", params.data.train), ("validation", params.data.validation)):
        for corpus in corpora:
            counted = splits.get(split, {}).get("corpora", {}).get(corpus.name, {})
            said: dict[str, Any] = {"kind": corpus.kind, "rows": counted.get("rows"), "licence": _licence_of(root, corpus, params)}
            files = {"annotations": corpus.annotations} | ({} if corpus.kind == "text" else {"media": corpus.media})
            for key, path in files.items():
                # Corpora may lie in one folder that DVC knows as a whole: each still has the hash of its own annotations.
                shared = hashes.get(str(params.rendered.root)) if is_rendered(corpus, params) and key == "media" else None
                digest = hashes.get(str(path)) or shared or (_digest(root / path) or "")[:DIGEST_LENGTH] or None
                said |= {key: str(path), f"{key}_hash": digest}
            tags[f"corpus.{split}.{corpus.name}"] = json.dumps(said, ensure_ascii=False)
    return tags


def _licence_of(root: Path, corpus: Corpus, params: Params) -> str | None:
    """What the README.md or LICENSE beside the media or the annotations says; None when there is none."""
    if is_rendered(corpus, params):
        return "generated by pllava render"
    everyone = [*params.data.train, *params.data.validation]
    others = [path for other in everyone if other.name != corpus.name for path in (other.annotations, other.media)]
    for folder in (corpus.media, corpus.annotations.parent):
        if (root / folder).resolve() == root.resolve() or any(path != Path() and path.is_relative_to(folder) for path in others):
            continue  # the licence of a folder that several share may be another's
        if (licence := stated_licence(root / folder)) is not None:
            return licence
    return None


def stated_licence(folder: Path) -> str | None:
    """The `license` of the README's or model card's head, else the first line of LICENSE."""
    for name in ("README.md", "MODEL_CARD.md"):
        file = folder / name
        if file.is_file() and (found := LICENCE.search(file.read_text(errors="replace"))):
            return found[1]
    for name in ("LICENSE", "LICENSE.txt", "LICENCE", "LICENSE.md"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(errors="replace").splitlines()
            return next((line.strip() for line in lines if line.strip()), f"see its {name}")
    return None


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
    """The hash of what `dvc add` or `dvc import-url` tracks, or of the nearest tracked folder above it: in its .dvc file."""
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


def _digest(path: Path) -> str | None:
    """A hash for runs outside DVC: of a file; over a folder's small index files, else over the names and sizes of all its files."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for pattern in ("*.parquet", "*.json", "*.safetensors") for file in path.glob(pattern))
    if files:
        lines = "\n".join(f"{file.name} {sha256_file(file)}" for file in files)
    else:
        lines = "\n".join(sorted(f"{file.relative_to(path)} {file.stat().st_size}" for file in path.rglob("*") if file.is_file()))
    return hashlib.sha256(lines.encode()).hexdigest() if lines else None


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command; None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
