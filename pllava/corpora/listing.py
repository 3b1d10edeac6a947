"""The text of `pllava data list` and `pllava data show`: corpora of params.yaml, then corpora of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pllava.benchmarks.benchmark import load_benchmark
from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.core.params import Benchmark, Corpus, Params
from pllava.corpora.check import CHECKED, REPORTS
from pllava.corpora.project import find
from pllava.corpora.published import CORPORA, Published
from pllava.corpora.tracking import tracked_by
from pllava.stages.prepare.mixing import rows_taken


def overview(params: Params) -> list[str]:
    """Two tables with one line for each corpus: those of params.yaml, and those of the paper."""
    rows: list[tuple[str, ...]] = [("split", "name", "kind", "rows", "usable", "in the mixture", "annotations")]
    for split, corpora in (("train", params.data.train), ("validation", params.data.validation)):
        rows += [(split, corpus.name, corpus.kind, *_counts(corpus, split), str(corpus.annotations)) for corpus in corpora]
    rows += [
        ("test", name, "benchmark", _questions(name, settings), "-", "-", str(settings.root))
        for name, settings in params.evaluate.benchmarks.items()
    ]
    added = {corpus.name for corpus in (*params.data.train, *params.data.validation)}
    published: list[tuple[str, ...]] = [("corpora of the paper", "rows", "media", "here")]
    published += [(f"{c.name}{' (optional)' * c.optional}", f"{c.rows:,}", c.media, "added" if c.name in added else "-") for c in CORPORA]
    paper = sum(corpus.rows for corpus in CORPORA if not corpus.optional)
    return [
        *_table(rows),
        "",
        *_table(published),
        f"{paper:,} rows in the corpora of the released models, {sum(corpus.rows for corpus in CORPORA):,} with the optional ones.",
        "Where they come from: pllava data show NAME",
    ]


def describe(params: Params, name: str) -> list[str]:
    """Lines about a corpus: its entries in params.yaml, then the corpus of the paper. Raises PllavaError for an unknown name."""
    if (settings := params.evaluate.benchmarks.get(name)) and not any(
        corpus.name == name for corpus in (*params.data.train, *params.data.validation)
    ):
        return [
            name,
            *(
                f"  {key:<12} {value}"
                for key, value in {"split": "test", "root": settings.root, "questions": _questions(name, settings)}.items()
            ),
        ]
    published = next((corpus for corpus in CORPORA if corpus.name == name), None)
    try:
        entries = find(params, name)
    except PllavaError as error:
        if published is None:
            raise PllavaError(f"{error}. Corpora of the paper: {', '.join(corpus.name for corpus in CORPORA)}") from None
        entries = []
    lines = [line for split, corpus in entries for line in [*_describe_entry(corpus, split), ""]]
    return (lines + _describe_published(published, bool(entries)) if published else lines[:-1]) or lines


def _questions(name: str, settings: Benchmark) -> str:
    """The number of questions of a test set as text."""
    try:
        return f"{len(load_benchmark(name, settings.source).samples(settings.root)):,}"
    except PllavaError:
        return "not on disk"


def _describe_entry(corpus: Corpus, split: str) -> list[str]:
    facts: dict[str, Any] = {"split": split, "kind": corpus.kind}
    for key, path in (("annotations", corpus.annotations), ("media", corpus.media)):
        if path == Path():  # text has no media
            continue
        state = f"tracked by {tracker}" if (tracker := tracked_by(path)) else "not tracked by DVC"
        facts[key] = f"{path} ({state}{'' if path.exists() else ', not on disk: dvc pull'})"
    facts["weight"] = f"{corpus.weight:g}"
    facts["max_rows"] = corpus.max_rows or "all"
    if report := _report(corpus, split):
        facts["rows"] = f"{report['rows']:,}, usable {report['usable']:,}, clips {report['clips']:,}, turns {report['turns']:,}"
        facts["cut"] = f"{report['rows_cut_to_max_length']:,} row(s) longer than train.max_length"
        for code, reason in report["reasons"].items():
            facts[code] = f"{reason['rows']:,} row(s), such as {reason['examples'][0]}"
    else:
        facts["rows"] = f"not checked yet: pllava data check {corpus.name}"
    return [corpus.name, *(f"  {key:<12} {value}" for key, value in facts.items())]


def _describe_published(corpus: Published, added: bool) -> list[str]:
    facts = {
        "rows": f"{corpus.rows:,} in the published annotation file",
        "annotations": corpus.annotations,
        "media": f"{corpus.media}: {corpus.url}",
        **({"note": corpus.note} if corpus.note else {}),
        "in": "an option of the published training code" if corpus.optional else "the corpora of the released models",
    }
    lines = [f"{corpus.name} (VideoChat2-IT, {corpus.task})", *(f"  {key:<12} {value}" for key, value in facts.items())]
    if not added:
        lines += ["", "With its media in a folder:", f"  pllava data add {corpus.name} --annotations {corpus.annotations} --media FOLDER"]
    return lines


def _counts(corpus: Corpus, split: str) -> tuple[str, str, str]:
    """(rows, usable rows, rows in the mixture) as text."""
    if not (report := _report(corpus, split)):
        return "not checked", "-", "-"
    return f"{report['rows']:,}", f"{report['usable']:,}", f"{rows_taken(report['rows'], corpus.weight, corpus.max_rows):,}"


def _report(corpus: Corpus, split: str) -> dict[str, Any] | None:
    """The newest report of a check of the corpus's files; None when they were not checked."""
    files = [file for folder in (CHECKED, REPORTS) if (file := folder / f"{corpus.name}-{split}.json").exists()]
    for file in sorted(files, key=lambda file: -file.stat().st_mtime_ns):
        report = read_json(file)
        if (Path(report["annotations"]), Path(report["media"])) == (corpus.annotations, corpus.media):
            return report
    return None


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
