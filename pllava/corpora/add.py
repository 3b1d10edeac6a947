"""`pllava data add`: check a corpus, track it with DVC and add it to params.yaml. When a step fails, all files are restored.

    add("kitchen", annotations="kitchen.json", media="/videos/kitchen")
    add("chat", annotations="chat.jsonl", kind="text")   # rows without media

Files in the project stay where they are. Files outside it, and files of a URL, are copied to data/raw/<name>/. params.yaml is written last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pllava.core.errors import PllavaError
from pllava.core.params import PARAMS_FILE, Corpus, Params, load_params
from pllava.core.validation import problems
from pllava.corpora.check import CHECKED, REPORTS, CorpusReport, check_corpus
from pllava.corpora.entries import with_corpus, with_dependencies
from pllava.corpora.project import DVC_FILE, read_dvc_yaml, rewrite, splits_of, validated
from pllava.corpora.tracking import bring, is_url, track, tracked_by
from pllava.corpora.undo import Undo, recover

RAW = Path("data/raw")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Added:
    """The result of `add`."""

    corpus: Corpus
    report: CorpusReport
    report_file: Path
    tracked: dict[str, str]  # path -> the .dvc file or stage that tracks it


def add(
    name: str,
    annotations: str,
    media: str | None = None,
    kind: str = "video",
    split: str = "train",
    weight: float = 1.0,
    max_rows: int | None = None,
    params_file: str | Path = PARAMS_FILE,
) -> Added:
    """Check a corpus, track it and add it to data.<split>.

    Raises PllavaError, and then all files are restored. The report of a failed check stays under .state/data.
    """
    params_file = Path(params_file)
    recover()
    params, dvc_text = load_params(params_file), read_dvc_yaml()
    _require_new_name(name, split, params)
    draft = _corpus_without_files(name, kind, weight, max_rows)
    _require_media_fit_kind(name, kind, media)
    sources = {"annotations": annotations} | ({} if media is None else {"media": media})
    for key, source in sources.items():
        require_source(source, folder=key == "media")
    with Undo() as undo:
        undo.keep(RAW / name)
        files = {
            key: bring_into_project(name, "media" if key == "media" else f"{split}{_suffix(source)}", source, undo, folder=key == "media")
            for key, source in sources.items()
        }
        corpus = draft.model_copy(update=files)
        report = check_corpus(corpus, params, split)
        _require_usable(report, params.data.max_bad_fraction)
        tracked = {}
        for key in reversed(files):  # the annotations may lie in the folder of the media
            tracked[files[key].as_posix()] = ensure_tracked(files[key], undo)
        for file in (report_file := REPORTS / f"{name}-{split}.md", report_file.with_suffix(".json"), DVC_FILE, params_file):
            undo.keep(file)
        report.write(REPORTS)
        rewrite(DVC_FILE, with_dependencies(dvc_text, [path.as_posix() for path in files.values()]))
        rewrite(params_file, validated(with_corpus(params_file.read_text(), split, corpus), params_file))
    return Added(corpus, report, report_file, tracked)


def _require_new_name(name: str, split: str, params: Params) -> None:
    if not NAME.fullmatch(name):
        raise PllavaError(f"{name!r} cannot name a corpus: letters, digits, '_', '-' and '.' are needed, beginning with a letter or digit")
    if name in (corpus.name for corpus in splits_of(params)[split]):
        raise PllavaError(f"data.{split} has a corpus {name!r} already. Take another name, or: pllava data remove {name} --split {split}")


def _corpus_without_files(name: str, kind: str, weight: float, max_rows: int | None) -> Corpus:
    """The corpus without its files, checked before anything is fetched."""
    try:
        return Corpus.model_validate({"name": name, "kind": kind, "annotations": ".", "media": ".", "weight": weight, "max_rows": max_rows})
    except ValidationError as error:
        raise PllavaError(f"corpus {name!r}: {'; '.join(problems(error, Corpus))}") from None


def _require_media_fit_kind(name: str, kind: str, media: str | None) -> None:
    if kind == "text" and media is not None:
        raise PllavaError(f"corpus {name!r} of kind text takes no media, found {media}. Leave --media away, or give --kind video or image")
    if kind != "text" and media is None:
        raise PllavaError(f"corpus {name!r} of kind {kind} needs --media, the folder its paths begin in. Rows without media: --kind text")


def require_source(source: str, folder: bool) -> None:
    option, needed = ("media", "folder") if folder else ("annotations", "file")
    if is_url(source):
        if folder and source.lower().startswith(("http://", "https://")):
            raise PllavaError(
                f"{source}: HTTP has no folders. Give a bucket (s3://, gs://, azure://, ssh://), or unpack the download and give its folder"
            )
    elif not Path(source).exists():
        raise PllavaError(f"{source} is not there; --{option} needs a {needed} or a URL")
    elif folder != Path(source).is_dir():
        raise PllavaError(f"{source} is a {'file' if folder else 'folder'}, --{option} needs a {needed} or a URL")


def bring_into_project(name: str, file: str, source: str, undo: Undo, folder: bool, copy: bool = False) -> Path:
    """The source's path, relative to the project. A URL, a source outside, and any with `copy`, is copied to data/raw/<name>/."""
    if not copy and not is_url(source) and (path := Path(source).resolve()).is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    target = RAW / name / file
    if target.exists():
        raise PllavaError(f"{target} is there already. To use it: --{'media' if folder else 'annotations'} {target}; else move it away")
    for path in (target, Path(f"{target}.dvc"), target.parent / ".gitignore"):
        undo.keep(path)
    bring(source, target)
    return target


def _suffix(source: str) -> str:
    return next((suffix for suffix in JSON_LINES if source.lower().split("?")[0].endswith(suffix)), ".json")


def _require_usable(report: CorpusReport, max_bad_fraction: float) -> None:
    file = CHECKED / f"{report.name}-{report.split}.md"
    if not report.usable:
        raise PllavaError(f"{report.name}: none of {report.rows} row(s) can be used. Why: {file}. Nothing was added")
    if report.bad_fraction > max_bad_fraction:
        counts = ", ".join(f"{code}: {reason['rows']}" for code, reason in report.reasons.items())
        examples = "\n".join(f"  {reason['examples'][0]}" for reason in report.reasons.values())
        raise PllavaError(
            f"{report.name}: {report.bad} of {report.rows} row(s) cannot be used, data.max_bad_fraction allows {max_bad_fraction:.1%} "
            f"({counts})\n{examples}\nNothing was added. All reasons: {file}; all rows: {report.rejected}. "
            "Mend them, or raise data.max_bad_fraction in params.yaml, then repeat the command"
        )


def ensure_tracked(path: Path, undo: Undo) -> str:
    """The .dvc file or stage that tracks the path; runs `dvc add` when none does."""
    if tracker := tracked_by(path):
        return tracker
    undo.keep(f"{path}.dvc")
    undo.keep(path.parent / ".gitignore")
    track(path)
    return f"{path}.dvc"
