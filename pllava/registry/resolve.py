"""`models:/pllava@champion` or `models:/pllava/3` -> a local adapter folder, verified against its hashes."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from pllava.core.errors import PllavaError
from pllava.core.files import alone, read_json
from pllava.core.hashing import sha256_file
from pllava.model.sources import LocalModel
from pllava.registry import champion_file
from pllava.registry.card import dataset_inputs
from pllava.registry.package import ADAPTER
from pllava.registry.versions import CHAMPION, by_alias, pick
from pllava.tracking.store import client, project_root, require_records

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")
DOWNLOADED = Path(".state/models")
PATIENCE = 600.0  # seconds to wait for another process that downloads the same version


def resolve(uri: str) -> Path:
    """The adapter folder of a registry address. Raises PllavaError for an unknown address and for changed files."""
    return locate(uri)[1]


def locate(uri: str) -> tuple[int, Path]:
    """(version number, verified adapter folder) of a registry address. Raises PllavaError as `resolve` does."""
    match = URI.fullmatch(uri)
    if match is None:
        raise PllavaError(f"{uri!r} is not a registry address; two forms are: models:/NAME@ALIAS and models:/NAME/VERSION")
    name, alias = match["name"], match["alias"]
    require_records()
    connection = client()
    version = by_alias(connection, name, alias) if alias else pick(connection, name, int(match["version"]))
    if version is None:
        raise PllavaError(
            f"{uri} leads nowhere: no version of {name} has the alias {alias!r}. Run: pllava register && pllava gate && pllava promote"
        )
    number = int(version.version)
    source = version.source or ""
    url = urlparse(source)
    if url.scheme in ("", "file"):
        folder = Path(unquote(url.path))
    else:
        # The hash is part of the name, because version 3 of another server is another model.
        folder = project_root() / DOWNLOADED / name / f"{number}-{version.tags.get('adapter_sha256', '')[:12]}"
        with alone(folder.with_name(f".{folder.name}.lock"), f"another process fetches {uri}", PATIENCE):
            if not folder.is_dir():
                _download(source, folder, connection.tracking_uri)
    if (folder / "MLmodel").is_file():
        folder = folder / ADAPTER
    digest = verify(folder)
    if digest != version.tags.get("adapter_sha256"):
        raise PllavaError(
            f"{folder} is not what version {number} of {name} was registered with: adapter_sha256 is {digest}. "
            "Take another version: pllava rollback"
        )
    return number, folder


def local_model(address: str) -> LocalModel:
    """The registered version behind `models:/NAME@ALIAS` or `models:/NAME/VERSION` (entry point `models` of pllava.model_sources).

    The recorded champion is found without mlflow; every other version, and a champion that is not recorded, through it.
    """
    match = URI.fullmatch(address)
    if match and (recorded := champion_file.read(match["name"])):
        known, digest = recorded
        if (match["alias"] or match["version"]) in (CHAMPION, str(known.version)) and verify(known.folder) == digest:
            return known
    number, folder = locate(address)
    name = re.split(r"[/@]", address.removeprefix("models:/"))[0]
    version = pick(client(), name, number)
    champion = by_alias(client(), name, CHAMPION)
    is_champion = champion is not None and int(champion.version) == number
    model = LocalModel(
        folder,
        f"{name} version {number}" + (" (champion)" if is_champion else ""),
        number,
        float(version.tags["lora_alpha"]) if "lora_alpha" in version.tags else None,
        _tags(client(), version),
    )
    if is_champion:
        champion_file.write(name, model, version.tags["adapter_sha256"])
    return model


def record_champion(name: str) -> None:
    """Record the champion in the project's sqlite registry for `local_model`. One that cannot be loaded is not recorded."""
    if champion_file.is_possible():
        with suppress(PllavaError):
            local_model(f"models:/{name}@{CHAMPION}")


def verify(folder: Path) -> str:
    """Compare every file with the folder's manifest; returns the adapter_sha256. Raises PllavaError when a file differs."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise PllavaError(f"{folder} is not a whole adapter folder: manifest.json is not there. Run: dvc repro train")
    listed = read_json(manifest)
    if not isinstance(listed, dict) or not isinstance(listed.get("files"), dict) or not isinstance(listed.get("adapter_sha256"), str):
        raise PllavaError(f"{folder} is no adapter folder: manifest.json has no files and adapter_sha256. One is outputs/train/adapter")
    wrong = [name for name, digest in listed["files"].items() if not (folder / name).is_file() or sha256_file(folder / name) != digest]
    if wrong:
        raise PllavaError(f"{folder}: {', '.join(sorted(wrong))} differ from manifest.json. Train again: dvc repro --force train")
    return listed["adapter_sha256"]


def _tags(connection: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """The recorded origin of a version, {label: value}, without empty values, in display order."""
    tags = _origin(connection, version)
    commit = tags.get("git.commit", "")
    dirty = " and changes that were not committed" if tags.get("git.dirty") == "true" else ""
    data = {f"{key} (hash)": value for key, value in tags.items() if key.startswith("data.")}
    known = {
        "git commit": commit + dirty if commit else "",
        "params (hash)": tags.get("params_sha256"),
        **data,
        "dvc.lock (hash)": tags.get("dvc_lock_sha256"),
        "mlflow run": version.run_id,
        "flow run": tags.get("flow_run_id"),
        "packages": ", ".join(f"{key.removeprefix('version.')} {value}" for key, value in sorted(tags.items()) if "version." in key),
    }
    return {key: value for key, value in known.items() if value}


def _origin(connection: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """Tags of the run that made a version, hashes of its data as "data.<name>", and the version's own tags."""
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return version.tags
    try:
        run = connection.get_run(version.run_id)
    except MlflowException:  # deleted
        return version.tags
    return run.data.tags | {f"data.{item.dataset.name}": item.dataset.digest for item in dataset_inputs(run)} | version.tags


def _download(source: str, folder: Path, uri: str) -> None:
    """Download from a tracking server. `folder` is created only after the whole download."""
    import mlflow.artifacts

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as partial:
        Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=partial, tracking_uri=uri)).replace(folder)
