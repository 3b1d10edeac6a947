"""The origin of a model as MLflow tags, parameters and dataset inputs: git commit, package versions, flow run, hashes of the data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pllava.core import git
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.hashing import sha256_file, sha256_of
from pllava.core.params import Corpus, Params

log = logging.getLogger(__name__)

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
    """MLflow tags of the code: git commit, whether tracked files differ from it, package versions, and the Prefect flow run.

    Where git refuses to answer, `git.refused` says why, and its advice is logged once.
    """
    commit, changed, refused = None, None, None
    try:
        commit = git.commit(root)
        changed = changed_files(root) if commit else None
    except git.NoRepositoryError:
        pass  # the project needs no repository
    except PllavaError as error:
        refused = str(error)
        _warn(f"the commit is not recorded: {error}")
    tags = {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "flow_run_id": os.environ.get("PLLAVA_FLOW_RUN_ID", ""),
    }
    if changed:
        tags["git.changed"] = ", ".join(changed)[:CHANGED_LENGTH]
    if refused:
        tags["git.refused"] = refused[:CHANGED_LENGTH]
    if reproduced := os.environ.get("PLLAVA_REPRODUCES"):
        tags["reproduces"] = reproduced
    if commit:
        tags["mlflow.source.git.commit"] = commit  # the tag that MLflow's pages show
    for name in PACKAGES:
        try:
            tags[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            tags[f"version.{name}"] = "not installed"
    return tags


def changed_files(root: Path) -> list[str]:
    """Tracked files that differ from the commit, relative to `root`, sorted. Files that the pipeline writes (RECORDS) are left out."""
    return [file for file in git.changed_files(root) if not file.startswith(RECORDS)]


@cache
def _warn(message: str) -> None:
    """Log a warning, once."""
    log.warning("%s", message)


def params_sha256(params: Params) -> str:
    """Hash of the parsed settings without `run`. Comments, the order of keys and omitted defaults do not change it."""
    return sha256_of(params.model_dump(mode="json", exclude={"run"}))


def dataset_digests(root: Path, params: Params) -> dict[str, tuple[str, str]]:
    """{name: (path, digest)} of the data that training read. The digest is DVC's; without DVC it is `_digest`."""
    locked = _locked_hashes(root)
    paths = {"prepared": "data/prepared", "base": params.model.base}
    if params.rendered.enabled:
        paths["media"] = str(params.rendered.root)
    for split, corpus in own_corpora(params):
        suffix = "" if split == "train" else f".{split}"
        paths[f"annotations.{corpus.name}{suffix}"] = str(corpus.annotations)
        if corpus.kind != "text":
            paths[f"media.{corpus.name}{suffix}"] = str(corpus.media)
    digests: dict[str, tuple[str, str]] = {}
    for name, path in paths.items():
        if digest := locked.get(path) or _added_hash(root, path) or _digest(root / path):
            digests[name] = (path, str(digest)[:DIGEST_LENGTH])
    for name in [name for name in digests if name.startswith("annotations.")]:
        media = digests.get(f"media.{name.removeprefix('annotations.')}")
        if media and media[1] == digests[name][1]:  # one tracked folder holds both
            del digests[name]
    return digests


def is_rendered(corpus: Corpus, params: Params) -> bool:
    """Whether `pllava render` writes the corpus's annotations and clips."""
    root = params.rendered.root
    return params.rendered.enabled and corpus.annotations.is_relative_to(root) and corpus.media.is_relative_to(root)


def own_corpora(params: Params) -> list[tuple[str, Corpus]]:
    """(split, corpus) of all corpora except those that `pllava render` writes."""
    splits = {"train": params.data.train, "validation": params.data.validation}
    return [(split, corpus) for split, corpora in splits.items() for corpus in corpora if not is_rendered(corpus, params)]


def corpus_tags(root: Path, params: Params) -> dict[str, str]:
    """{"corpus.train.kitchen": JSON of its kind, rows, licence, files and their hashes}, for every corpus of training and validation.

    `rows` counts the rows that training took (after weight and max_rows). Unknown values are null.
    """
    digests = dataset_digests(root, params)
    hashes = dict(digests.values())
    report = root / "data/prepared/report.json"
    splits = (read_json(report) if report.is_file() else {}).get("splits", {})
    tags = {}
    for split, corpora in (("train", params.data.train), ("validation", params.data.validation)):
        for corpus in corpora:
            counts = splits.get(split, {}).get("corpora", {}).get(corpus.name, {})
            facts: dict[str, Any] = {"kind": corpus.kind, "rows": counts.get("rows"), "licence": _licence_of(root, corpus, params)}
            files = {"annotations": corpus.annotations} | ({} if corpus.kind == "text" else {"media": corpus.media})
            for key, path in files.items():
                # DVC tracks the rendered folder as one: its hash is the hash of the media. Annotations get a hash of their own file.
                shared = hashes.get(str(params.rendered.root)) if is_rendered(corpus, params) and key == "media" else None
                digest = hashes.get(str(path)) or shared or (_digest(root / path) or "")[:DIGEST_LENGTH] or None
                facts |= {key: str(path), f"{key}_hash": digest}
            tags[f"corpus.{split}.{corpus.name}"] = json.dumps(facts, ensure_ascii=False)
    return tags


def _licence_of(root: Path, corpus: Corpus, params: Params) -> str | None:
    """The licence in the README.md or LICENSE beside the media or the annotations; None when there is no such file."""
    if is_rendered(corpus, params):
        return "generated by pllava render"
    everyone = [*params.data.train, *params.data.validation]
    others = [path for other in everyone if other.name != corpus.name for path in (other.annotations, other.media)]
    for folder in (corpus.media, corpus.annotations.parent):
        if (root / folder).resolve() == root.resolve() or any(path != Path() and path.is_relative_to(folder) for path in others):
            continue  # skip a folder that holds other corpora: its licence may not be of this corpus
        if (licence := stated_licence(root / folder)) is not None:
            return licence
    return None


def stated_licence(folder: Path) -> str | None:
    """The `license` in the front matter of README.md or MODEL_CARD.md, else the first line of LICENSE; None without these files."""
    for name in ("README.md", "MODEL_CARD.md"):
        file = folder / name
        if file.is_file() and (match := LICENCE.search(file.read_text(errors="replace"))):
            return match[1]
    for name in ("LICENSE", "LICENSE.txt", "LICENCE", "LICENSE.md"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(errors="replace").splitlines()
            return next((line.strip() for line in lines if line.strip()), f"see its {name}")
    return None


def locked_stages(file: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock by name. Raises PllavaError for half a file, as a kill or a full disk can leave it."""
    with _whole(file):
        stages = (yaml.safe_load(file.read_text()) or {}).get("stages", {})
        [entry["path"] for stage in stages.values() for kind in ("outs", "deps") for entry in stage.get(kind, [])]
    return stages


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    try:
        yield
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, LookupError):
        raise PllavaError(f"{file} is not whole. Take it from the last commit, then repeat the command: git checkout {file.name}") from None


def _locked_hashes(root: Path) -> dict[str, str]:
    """{path: md5} of the outputs and dependencies of all stages, from dvc.lock.

    While a stage runs, dvc.lock still holds the dependencies of later stages from the last run. So for a path, an output counts before a
    dependency, and the dependency of an earlier stage before that of a later stage.
    """
    if not (root / "dvc.lock").is_file():
        return {}
    locked = locked_stages(root / "dvc.lock")
    order = list((yaml.safe_load((root / "dvc.yaml").read_text()) or {}).get("stages", {})) if (root / "dvc.yaml").is_file() else []
    position = {name: index for index, name in enumerate(order)}  # dvc.lock orders the stages by their first run
    stages = sorted(locked.items(), key=lambda item: position.get(item[0].split("@")[0], len(order)))
    hashes: dict[str, str] = {}
    for kind in ("outs", "deps"):
        for _, stage in stages:
            for entry in stage.get(kind, []):
                if "md5" in entry:
                    hashes.setdefault(entry["path"], entry["md5"])
    return hashes


def _added_hash(root: Path, path: str) -> str | None:
    """The md5 in the .dvc file of the path, or of the nearest folder above it that has one; None when none has."""
    target = root / path
    for folder in (target, *target.parents):
        if not folder.name:  # the path is outside the project, and the file system's root is reached
            break
        file = folder.with_name(f"{folder.name}.dvc")
        if file.is_file():
            with _whole(file):
                return (yaml.safe_load(file.read_text()) or {}).get("outs", [{}])[0].get("md5")
        if folder == root:
            break
    return None


def _digest(path: Path) -> str | None:
    """A hash without DVC: of a file's bytes; of a folder's index files; else of its files' names and sizes. None for an empty folder."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for pattern in ("*.parquet", "*.json", "*.safetensors") for file in path.glob(pattern))
    if files:
        lines = "\n".join(f"{file.name} {sha256_file(file)}" for file in files)
    else:
        lines = "\n".join(sorted(f"{file.relative_to(path)} {file.stat().st_size}" for file in path.rglob("*") if file.is_file()))
    return hashlib.sha256(lines.encode()).hexdigest() if lines else None
