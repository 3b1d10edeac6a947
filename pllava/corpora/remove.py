"""`pllava data remove`: take a corpus out of params.yaml, dvc.yaml and DVC: `remove("kitchen")`. A failed step restores all files."""

from __future__ import annotations

from pathlib import Path

from pllava.core.params import PARAMS_FILE, Params, load_params
from pllava.corpora.check import REPORTS
from pllava.corpora.entries import without_corpus, without_dependencies
from pllava.corpora.project import DVC_FILE, find, load_text, read_dvc_yaml, rewrite, splits_of, validated
from pllava.corpora.tracking import untrack
from pllava.corpora.undo import Undo, recover


def remove(name: str, split: str | None = None, delete: bool = False, params_file: str | Path = PARAMS_FILE) -> list[str]:
    """Take a corpus out of params.yaml, dvc.yaml and DVC; returns one line for each change. The data files stay unless `delete`."""
    params_file = Path(params_file)
    recover()
    entries = find(load_params(params_file), name, split)
    with Undo() as undo:
        undo.keep(params_file)
        undo.keep(DVC_FILE)
        text, done = params_file.read_text(), []
        for where, _ in entries:
            text = without_corpus(text, where, name)
            done.append(f"{params_file}: {name} is no longer in data.{where}")
        text = validated(text, params_file)
        used = _used(load_text(text))
        removed = dict.fromkeys(
            path for _, corpus in entries for path in (corpus.annotations, corpus.media) if path != Path()
        )  # kind text has no media
        still_used = {path: next((other for other in used if other.is_relative_to(path)), None) for path in removed}
        unused = [path for path, other in still_used.items() if other is None]
        done += [f"{path}: stays as it is, {other} in it is used" for path, other in still_used.items() if other not in (None, path)]
        rewrite(DVC_FILE, without_dependencies(read_dvc_yaml(), [path.as_posix() for path in unused]))
        for where, _ in entries:
            for file in (REPORTS / f"{name}-{where}.md", REPORTS / f"{name}-{where}.json"):
                undo.keep(file)
                file.unlink(missing_ok=True)
        rewrite(params_file, text)
        for path in unused:
            if (dvc_file := Path(f"{path}.dvc")).exists():
                undo.keep(dvc_file)
                undo.keep(path.parent / ".gitignore")
                untrack(path, delete)
                done.append(f"{path}: no longer tracked by DVC, {'deleted' if delete else 'the files stay'}")
    return done


def _used(params: Params) -> list[Path]:
    """Files and folders of all corpora and benchmarks."""
    corpora = [path for split in splits_of(params).values() for corpus in split for path in (corpus.annotations, corpus.media)]
    return [*corpora, *(benchmark.root for benchmark in params.evaluate.benchmarks.values())]
