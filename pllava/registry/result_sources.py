"""Find the results.jsonl files that the arguments of a command name.

    find(["outputs/evaluate", "old=../old/outputs/evaluate", "mlflow-run:0a1b..."], params)

An argument is a folder of benchmarks, a benchmark's folder, a results.jsonl, or an MLflow run. Each argument is one named source. A folder
with a sources.json (of a sweep or a study) is several sources, one for each name in the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.params import Params

FILE = "results.jsonl"
SOURCES = "sources.json"  # {name: folder, relative to this file}
RUN = "mlflow-run:"
DOWNLOADS = Path(".state/gallery/runs")
NAMED = re.compile(r"(?P<name>[\w .@-]{1,60})=(?P<location>.+)")


@dataclass(frozen=True)
class ResultFile:
    """One benchmark's results of one source. root: folder of the clips; None: unknown."""

    source: str
    benchmark: str
    path: Path
    root: Path | None
    num_frames: int = 16
    frame_rule: str = "eval"


def find(locations: Sequence[str], params: Params | None = None, media: Mapping[str, Path] | None = None) -> list[ResultFile]:
    """All results files of the arguments. media: {benchmark: folder of its clips}, overrides the params.

    Raises PllavaError when an argument holds no results, or when two arguments have the same name.
    """
    return listed(locate(locations), params, media)


def locate(locations: Sequence[str]) -> dict[str, Path]:
    """{name: folder or file} of the arguments. Results of an MLflow run are downloaded."""
    return {
        name: _run_folder(location.removeprefix(RUN)) if location.startswith(RUN) else Path(location)
        for name, location in _named(locations).items()
    }


def listed(located: Mapping[str, Path], params: Params | None = None, media: Mapping[str, Path] | None = None) -> list[ResultFile]:
    """The results files that the located folders hold now."""
    return [
        _described(source, path.absolute(), params, media or {})
        for name, location in located.items()
        for source, folder in _parts_of(location, name, alone=len(located) == 1).items()
        for path in _files(folder)
    ]


def _parts_of(location: Path, name: str, alone: bool) -> dict[str, Path]:
    """{source: folder}: the folders of its sources.json that hold results, else the path itself."""
    if not (location / SOURCES).is_file():
        return {name: location}
    named = read_json(location / SOURCES)
    if not isinstance(named, dict) or not all(isinstance(folder, str) for folder in named.values()):
        raise PllavaError(f"{location / SOURCES} does not name folders: it must be {{name: folder}}")
    folders = {part if alone else f"{name}, {part}": location / folder for part, folder in named.items() if _inside(location / folder)}
    return folders or {name: location}


def _named(locations: Sequence[str]) -> dict[str, str]:
    """{name: argument without NAME=}. Else the name is the last part of the path that differs from the others."""
    matches = [None if Path(location).exists() else NAMED.fullmatch(location) for location in locations]  # a folder may be called lr=0.1
    arguments = [
        (match["name"], match["location"]) if match else (None, location) for location, match in zip(locations, matches, strict=True)
    ]
    named: dict[str, str] = {}
    for name, location in arguments:
        name = name or _short(location, [other for _, other in arguments if other != location])
        if name in named:
            raise PllavaError(
                f"two of the results are called {name!r}: {named[name]} and {location}. Name them: pllava gallery a=FOLDER b=FOLDER"
            )
        named[name] = location
    return named


def _short(location: str, others: Sequence[str]) -> str:
    if location.startswith(RUN):
        return f"run {location.removeprefix(RUN)[:8]}"
    parts = _parts(location)
    ends = [_parts(other) for other in others if not other.startswith(RUN)]
    for length in range(1, len(parts) + 1):
        if all(parts[-length:] != other[-length:] for other in ends):
            return parts[-length]
    return location


def _parts(location: str) -> tuple[str, ...]:
    path = Path(location).absolute()
    return (path.parent if path.name == FILE else path).parts


def _files(folder: Path) -> list[Path]:
    files = _inside(folder)
    if not files:
        what = "holds no results.jsonl" if folder.is_dir() else "is not there"
        raise PllavaError(f"{folder} {what}. Results are in outputs/evaluate/ after: pllava evaluate")
    return files


def _inside(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if (folder / FILE).is_file():
        return [folder / FILE]
    return sorted(
        file for file in folder.glob(f"*/{FILE}") if not file.parent.name.startswith(".")
    )  # folders with a dot are still being written


def _described(source: str, path: Path, params: Params | None, media: Mapping[str, Path]) -> ResultFile:
    benchmark = path.parent.name or "results"
    settings = params.evaluate.benchmarks.get(benchmark) if params else None
    root = media.get(benchmark) or media.get("") or (settings.root if settings else None)
    rule = "eval"
    if settings:
        from pllava.benchmarks.benchmark import load_benchmark

        rule = load_benchmark(benchmark, settings.source).frame_rule
    return ResultFile(source, benchmark, path, root.absolute() if root else None, params.model.num_frames if params else 16, rule)


def _run_folder(run_id: str) -> Path:
    """Download the results of an MLflow run; returns their folder. Raises PllavaError for an unknown run and a run without results."""
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", run_id):
        raise PllavaError(f"{run_id!r} is not the id of an MLflow run, which is 32 hexadecimal digits. MLflow shows the runs: make up")
    from mlflow.exceptions import MlflowException

    from pllava.core.files import atomic_dir
    from pllava.tracking.store import client, project_root

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    connection = client()
    try:
        benchmarks = [item.path for item in connection.list_artifacts(run_id, "evaluate") if item.is_dir]
        if not benchmarks:
            raise PllavaError(f"MLflow run {run_id} has no results under evaluate/. Evaluate its model: pllava evaluate")
        target = project_root() / DOWNLOADS / run_id
        with atomic_dir(target) as partial:
            for path in benchmarks:
                (partial / Path(path).name).mkdir()
                connection.download_artifacts(run_id, f"{path}/{FILE}", str(partial / Path(path).name))
    except MlflowException as error:
        raise PllavaError(f"MLflow run {run_id}: {error.message}. MLflow shows the runs: make up") from None
    return target
