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
NAMED = re.compile(r"(?P<name>[\w .@-]{1,60})=(?P<place>.+)")


@dataclass(frozen=True)
class ResultFile:
    """One benchmark's results of one source. root: folder of the clips; None: unknown."""

    source: str
    benchmark: str
    path: Path
    root: Path | None
    num_frames: int = 16
    frame_rule: str = "eval"


def find(places: Sequence[str], params: Params | None = None, media: Mapping[str, Path] | None = None) -> list[ResultFile]:
    """All results files of the arguments. media: {benchmark: folder of its clips}, overrides the params.

    Raises PllavaError when an argument holds no results, or when two arguments have the same name.
    """
    return listed(locate(places), params, media)


def locate(places: Sequence[str]) -> dict[str, Path]:
    """{name: folder or file} of the arguments. Results of an MLflow run are downloaded."""
    return {name: _run_folder(place.removeprefix(RUN)) if place.startswith(RUN) else Path(place) for name, place in _named(places).items()}


def listed(located: Mapping[str, Path], params: Params | None = None, media: Mapping[str, Path] | None = None) -> list[ResultFile]:
    """The results files that the located folders hold now."""
    return [
        _described(source, path.absolute(), params, media or {})
        for name, place in located.items()
        for source, folder in _parts_of(place, name, alone=len(located) == 1).items()
        for path in _files(folder)
    ]


def _parts_of(place: Path, name: str, alone: bool) -> dict[str, Path]:
    """{source: folder}: the folders of its sources.json that hold results, else the path itself."""
    if not (place / SOURCES).is_file():
        return {name: place}
    named = read_json(place / SOURCES)
    if not isinstance(named, dict) or not all(isinstance(folder, str) for folder in named.values()):
        raise PllavaError(f"{place / SOURCES} does not name folders: it must be {{name: folder}}")
    found = {part if alone else f"{name}, {part}": place / folder for part, folder in named.items() if _inside(place / folder)}
    return found or {name: place}


def _named(places: Sequence[str]) -> dict[str, str]:
    """{name: argument without NAME=}. Else the name is the last part of the path that differs from the others."""
    matches = [None if Path(place).exists() else NAMED.fullmatch(place) for place in places]  # a folder may be called lr=0.1
    given = [(match["name"], match["place"]) if match else (None, place) for place, match in zip(places, matches, strict=True)]
    named: dict[str, str] = {}
    for name, place in given:
        name = name or _short(place, [other for _, other in given if other != place])
        if name in named:
            raise PllavaError(
                f"two of the results are called {name!r}: {named[name]} and {place}. Name them: pllava gallery a=FOLDER b=FOLDER"
            )
        named[name] = place
    return named


def _short(place: str, others: Sequence[str]) -> str:
    if place.startswith(RUN):
        return f"run {place.removeprefix(RUN)[:8]}"
    parts = _parts(place)
    ends = [_parts(other) for other in others if not other.startswith(RUN)]
    for length in range(1, len(parts) + 1):
        if all(parts[-length:] != other[-length:] for other in ends):
            return parts[-length]
    return place


def _parts(place: str) -> tuple[str, ...]:
    path = Path(place).absolute()
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
