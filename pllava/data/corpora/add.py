"""`pllava data add` and `remove`: a corpus is checked, tracked by DVC and in params.yaml, or nothing has changed.

    add("kitchen", annotations="kitchen.json", media="/videos/kitchen")

What lies in the project stays where it is. What lies outside, or behind a URL, is brought to data/raw/<name>/. params.yaml is written last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pllava.data.corpora.check import CHECKED, REPORTS, CorpusReport, check_corpus
from pllava.data.corpora.entries import with_corpus, with_dependencies, without_corpus, without_dependencies
from pllava.data.corpora.tracking import bring, is_url, track, tracked_by, untrack
from pllava.data.corpora.undo import Undo
from pllava.errors import PllavaError
from pllava.files import atomic_write_text
from pllava.params import PARAMS_FILE, Corpus, Params, load_params

RAW = Path("data/raw")
DVC_FILE = Path("dvc.yaml")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Added:
    corpus: Corpus
    report: CorpusReport
    report_file: Path
    tracked: dict[str, str]  # path -> the .dvc file or stage that has it


def add(
    name: str,
    annotations: str,
    media: str,
    kind: str = "video",
    split: str = "train",
    weight: float = 1.0,
    max_rows: int | None = None,
    params_file: str | Path = PARAMS_FILE,
) -> Added:
    """Check a corpus, track it and add it to data.<split>. Raises PllavaError, and then everything is as it was (the report of a failed
    check is under .state/data)."""
    params_file = Path(params_file)
    with Undo() as undo:
        params = load_params(params_file)
        _is_new(name, split, params)
        mixture = _mixture(name, kind, weight, max_rows)
        dvc_text = _dvc_yaml()
        undo.keep(RAW / name)
        files = {
            "annotations": _settle(name, f"{split}{_suffix(annotations)}", annotations, undo, folder=False),
            "media": _settle(name, "media", media, undo, folder=True),
        }
        corpus = mixture.model_copy(update=files)
        report = check_corpus(corpus, params, split)
        _good_enough(report, params.data.max_bad_fraction)
        tracked = {}
        for path in (corpus.media, corpus.annotations):  # in this order: the annotations may lie in the folder of the media
            tracked[path.as_posix()] = _tracked(path, undo)
        for file in (report_file := REPORTS / f"{name}-{split}.md", report_file.with_suffix(".json"), DVC_FILE, params_file):
            undo.keep(file)
        report.write(REPORTS)
        _rewrite(DVC_FILE, with_dependencies(dvc_text, [corpus.annotations.as_posix(), corpus.media.as_posix()]))
        _rewrite(params_file, _valid(with_corpus(params_file.read_text(), split, corpus), params_file))
    return Added(corpus, report, report_file, tracked)


def remove(name: str, split: str | None = None, delete: bool = False, params_file: str | Path = PARAMS_FILE) -> list[str]:
    """Take a corpus out of params.yaml and out of DVC; what was done, a line each. The files stay unless `delete`."""
    params_file = Path(params_file)
    with Undo() as undo:
        found = find(load_params(params_file), name, split)
        undo.keep(params_file)
        undo.keep(DVC_FILE)
        text, done = params_file.read_text(), []
        for where, _ in found:
            text = without_corpus(text, where, name)
            done.append(f"{params_file}: {name} is no longer in data.{where}")
        left = _valid(text, params_file)
        used = {path for corpora in _splits(load_text(left)).values() for corpus in corpora for path in (corpus.annotations, corpus.media)}
        gone = [path for _, corpus in found for path in (corpus.annotations, corpus.media)]
        free = list(dict.fromkeys(path for path in gone if path not in used))
        _rewrite(DVC_FILE, without_dependencies(_dvc_yaml(), [path.as_posix() for path in free]))
        for where, _ in found:
            for file in (REPORTS / f"{name}-{where}.md", REPORTS / f"{name}-{where}.json"):
                undo.keep(file)
                file.unlink(missing_ok=True)
        _rewrite(params_file, left)
        for path in free:
            if (dvc_file := Path(f"{path}.dvc")).exists():
                undo.keep(dvc_file)
                undo.keep(path.parent / ".gitignore")
                untrack(path, delete)
                done.append(f"{path}: no longer tracked by DVC, {'deleted' if delete else 'the files stay'}")
    return done


def find(params: Params, name: str, split: str | None = None) -> list[tuple[str, Corpus]]:
    """(split, corpus) of every split that has the name. Raises PllavaError that lists the names there are."""
    splits = {split: _splits(params)[split]} if split else _splits(params)
    found = [(where, corpus) for where, corpora in splits.items() for corpus in corpora if corpus.name == name]
    if not found:
        known = sorted({corpus.name for corpora in splits.values() for corpus in corpora})
        raise PllavaError(
            f"no corpus {name!r} in {' or '.join(f'data.{where}' for where in splits)}; there is: {', '.join(known) or 'none'}"
        )
    return found


def _splits(params: Params) -> dict[str, list[Corpus]]:
    return {"train": params.data.train, "validation": params.data.validation}


def _is_new(name: str, split: str, params: Params) -> None:
    if not NAME.fullmatch(name):
        raise PllavaError(f"{name!r} cannot name a corpus: letters, digits, '_', '-' and '.' are needed, beginning with a letter or digit")
    if name in (corpus.name for corpus in _splits(params)[split]):
        raise PllavaError(f"data.{split} has a corpus {name!r} already. Take another name, or: pllava data remove {name} --split {split}")


def _mixture(name: str, kind: str, weight: float, max_rows: int | None) -> Corpus:
    """The corpus without its files, checked before anything is fetched."""
    try:
        return Corpus.model_validate({"name": name, "kind": kind, "annotations": ".", "media": ".", "weight": weight, "max_rows": max_rows})
    except ValidationError as error:
        raise PllavaError(f"corpus {name!r}: {_in_words(error)}") from None


def _dvc_yaml() -> str:
    if not DVC_FILE.exists():
        raise PllavaError(f"{DVC_FILE} is not in {Path.cwd()}. Run inside the project folder, where the stages are")
    return DVC_FILE.read_text()


def _in_words(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}, found {item['input']!r}" for item in error.errors())


def _settle(name: str, file: str, source: str, undo: Undo, folder: bool) -> Path:
    """The path in the project; brought there if it is not there yet."""
    if not is_url(source):
        path = Path(source)
        if not path.exists():
            raise PllavaError(
                f"{path} is not there; --{'media' if folder else 'annotations'} needs a {'folder' if folder else 'file'} or a URL"
            )
        if folder != path.is_dir():
            raise PllavaError(f"{path} is a {'file' if folder else 'folder'}, a {'folder' if folder else 'file'} is needed")
        if path.resolve().is_relative_to(Path.cwd()):
            return path.resolve().relative_to(Path.cwd())
    elif folder and source.lower().startswith(("http://", "https://")):
        raise PllavaError(
            f"{source}: HTTP has no folders. Give a bucket (s3://, gs://, azure://, ssh://), or unpack the download and give its folder"
        )
    target = RAW / name / file
    if target.exists():
        raise PllavaError(f"{target} is there already. To use it: --{'media' if folder else 'annotations'} {target}; else move it away")
    for path in (target, Path(f"{target}.dvc"), target.parent / ".gitignore"):
        undo.keep(path)
    bring(source, target)
    return target


def _suffix(source: str) -> str:
    return next((suffix for suffix in LINES if source.lower().split("?")[0].endswith(suffix)), ".json")


def _good_enough(report: CorpusReport, max_bad_fraction: float) -> None:
    file = CHECKED / f"{report.name}-{report.split}.md"
    if not report.usable:
        raise PllavaError(f"{report.name}: none of {report.rows} row(s) can be used. Why: {file}. Nothing was added")
    if report.bad_fraction > max_bad_fraction:
        counts = ", ".join(f"{code}: {found['rows']}" for code, found in report.reasons.items())
        examples = "\n".join(f"  {found['examples'][0]}" for found in report.reasons.values())
        raise PllavaError(
            f"{report.name}: {report.bad} of {report.rows} row(s) cannot be used, data.max_bad_fraction allows {max_bad_fraction:.1%} "
            f"({counts})\n{examples}\nNothing was added. All reasons: {file}; all rows: {report.rejected}. "
            "Mend them, or raise data.max_bad_fraction in params.yaml, then repeat the command"
        )


def _tracked(path: Path, undo: Undo) -> str:
    """Who has the path in DVC; `dvc add` if nobody has."""
    if by := tracked_by(path):
        return by
    undo.keep(f"{path}.dvc")
    undo.keep(path.parent / ".gitignore")
    track(path)
    return f"{path}.dvc"


def _valid(text: str, path: Path) -> str:
    """The text, if it is still a params file."""
    try:
        load_text(text)
    except ValidationError as error:
        raise PllavaError(f"{path} would no longer be valid: {_in_words(error)}. Add another corpus first: pllava data add") from None
    return text


def load_text(text: str) -> Params:
    values: Any = yaml.safe_load(text)
    return Params.model_validate(values)


def _rewrite(path: Path, text: str) -> None:
    if path.read_text() != text:
        atomic_write_text(path, text)
