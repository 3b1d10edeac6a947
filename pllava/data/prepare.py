"""The data gate, `pllava prepare`: annotations and media become one checked manifest a split in data/prepared/.

Every row is checked before any training time is spent: its form, its text (see `pllava.data.text`), its media (see
`pllava.data.media`), that it is there once, and that no clip is in two splits (by content, not by name). Unusable rows go to
quarantined.parquet with all their reasons; more than `data.max_bad_fraction` of a split stops the stage and nothing is written.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.data.instruction import Instruction, Problem, read_corpus
from pllava.data.manifest import PREPARED, ManifestRow, QuarantinedRow, TestRow, write_rows
from pllava.data.media import WHOLE, Bound, MediaJob, MediaReport, check_all
from pllava.data.text import TextChecker
from pllava.errors import PllavaError
from pllava.files import atomic_dir, sha256_file, write_json

if TYPE_CHECKING:
    from pllava.params import Params

SHOWN = 5  # problems listed in an error


def prepare(params: Params) -> Path:
    """Write data/prepared/{train,validation,test,quarantined}.parquet and report.json. Raises PllavaError on too much bad data."""
    samples: dict[str, list[Instruction]] = {}
    problems: dict[str, list[Problem]] = {"train": [], "validation": [], "test": []}
    for split, corpora in (("train", params.data.train), ("validation", params.data.validation)):
        _names_differ(split, [corpus.name for corpus in corpora])
        read = [read_corpus(corpus) for corpus in corpora]
        samples[split] = [sample for good, _ in read for sample in good]
        problems[split] = [problem for _, bad in read for problem in bad]
    benchmarks = _benchmark_samples(params)

    checker = TextChecker(params.model.base, params.model.template, params.train.max_length)
    reports = _check_media(params, samples, benchmarks)
    rows = {split: _rows(samples[split], checker, reports, problems[split]) for split in samples}
    tests = _test_rows(params, benchmarks, reports, problems["test"])
    usable: dict[str, list[Any]] = {**rows, "test": tests}
    for split, table in usable.items():
        _stop_if_bad(split, problems[split], len(table), params.data.max_bad_fraction)
    if not rows["train"]:
        raise PllavaError("no usable training row. Add rows to the corpora of data.train in params.yaml, then: pllava prepare")
    _no_clip_in_two_splits(usable)

    tables: dict[str, tuple[type, list[Any]]] = {split: (ManifestRow, table) for split, table in rows.items()}
    tables["test"] = (TestRow, tests)
    tables["quarantined"] = (QuarantinedRow, [_quarantined(split, problem) for split in problems for problem in problems[split]])
    with atomic_dir(PREPARED) as folder:
        for name, (row_type, table) in tables.items():
            write_rows(folder / f"{name}.parquet", row_type, table)
        report = _report(rows, tests, problems)
        report["files"] = {f"{name}.parquet": sha256_file(folder / f"{name}.parquet") for name in tables}
        write_json(folder / "report.json", report)  # last: its existence means the folder is whole
    counts = ", ".join(f"{len(table)} {name}" for name, (_, table) in tables.items())
    print(f"{PREPARED}: {counts} row(s)", file=sys.stderr)
    return PREPARED


def _names_differ(split: str, names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise PllavaError(f"data.{split} in params.yaml names corpus {twice[0]!r} twice; sample ids need different names")


def _benchmark_samples(params: Params) -> list[tuple[str, Any]]:
    """(benchmark, sample) of every benchmark sample."""
    from pllava.evaluate.mvbench import load_samples

    return [(name, sample) for name, benchmark in sorted(params.evaluate.benchmarks.items()) for sample in load_samples(benchmark.root)]


def _check_media(params: Params, samples: dict[str, list[Instruction]], benchmarks: list[tuple[str, Any]]) -> dict[str, MediaReport]:
    """Path -> report, each distinct file checked once."""
    from rich.progress import track

    bounds: dict[str, dict[Bound, None]] = {}  # dicts keep the order of first mention
    for split in samples.values():
        for sample in split:
            bounds.setdefault(_path(sample), {})[sample.start, sample.end] = None
    for _, test in benchmarks:
        bounds.setdefault(test.media.as_posix(), {})[WHOLE] = None
    jobs = [MediaJob(path, tuple(asked)) for path, asked in bounds.items()]
    checked = check_all(jobs, params.data.workers)
    return {report.path: report for report in track(checked, "Checking media", total=len(jobs))}


def _rows(samples: list[Instruction], checker: TextChecker, reports: dict[str, MediaReport], problems: list[Problem]) -> list[ManifestRow]:
    """The usable samples; the others go to `problems` with every reason."""
    rows = []
    seen: dict[Any, str] = {}
    for sample in samples:
        media = reports[_path(sample)]
        num_tokens, reasons = checker.check(sample.turns)
        if problem := media.problem_of((sample.start, sample.end)):
            reasons.append(problem)
        first = seen.setdefault((media.sha256 or media.path, sample.start, sample.end, sample.turns), sample.id)
        if first != sample.id:
            reasons.append(("duplicate", f"the same media and text as {first}"))
        if reasons:
            problems.append(Problem(sample.corpus.name, str(sample.corpus.annotations), sample.index, media.path, reasons))
            continue
        rows.append(
            ManifestRow(
                id=sample.id,
                corpus=sample.corpus.name,
                kind=sample.corpus.kind,
                media=media.path,
                media_sha256=media.sha256,
                start=sample.start,
                end=sample.end,
                num_frames_total=media.num_frames_total,
                fps=media.fps,
                duration=media.duration,
                num_tokens=num_tokens,
                qa=[asdict(turn) for turn in sample.turns],
            )
        )
    return rows


def _test_rows(
    params: Params, benchmarks: list[tuple[str, Any]], reports: dict[str, MediaReport], problems: list[Problem]
) -> list[TestRow]:
    roots: dict[str, Path] = {name: benchmark.root for name, benchmark in params.evaluate.benchmarks.items()}
    rows = []
    for name, sample in benchmarks:
        media = reports[sample.media.as_posix()]
        stem, _, number = sample.id.rpartition("/")
        reasons = [reason] if (reason := media.problem_of(WHOLE)) else []
        if sample.answer not in sample.candidates:
            reasons.append(("answer is no option", f"the answer {sample.answer!r} is none of the options, so no reply can be right"))
        if reasons:
            problems.append(Problem(name, f"{roots[name]}/json/{stem}.json", int(number), media.path, reasons))
        else:
            rows.append(TestRow(name, sample.task, int(number), media.path, media.sha256))
    return rows


def _stop_if_bad(split: str, problems: list[Problem], usable: int, max_bad_fraction: float) -> None:
    total = usable + len(problems)
    if not problems or len(problems) / total <= max_bad_fraction:
        return
    counts = Counter(code for problem in problems for code, _ in problem.reasons)
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise PllavaError(
        f"{len(problems)} of {total} {split} row(s) cannot be used, data.max_bad_fraction allows {max_bad_fraction:.1%} "
        f"({', '.join(f'{code}: {count}' for code, count in sorted(counts.items()))})\n{shown}{more}\n"
        "Mend or remove these rows or files, or raise data.max_bad_fraction in params.yaml, then: pllava prepare"
    )


def _no_clip_in_two_splits(rows: dict[str, list[Any]]) -> None:
    first: dict[str, tuple[str, str]] = {}
    clashes = []
    for split, table in rows.items():
        for row in table:
            other, path = first.setdefault(row.media_sha256, (split, row.media))
            if other != split:
                clashes.append(f"  {path} ({other}) and {row.media} ({split})")
    if clashes:
        distinct = list(dict.fromkeys(clashes))
        raise PllavaError(
            f"{len(distinct)} clip(s) are in two splits (same content), so a score would be too good:\n"
            + "\n".join(distinct[:SHOWN])
            + "\nTake them out of one of the two, then: pllava prepare"
        )


def _report(rows: dict[str, list[ManifestRow]], tests: list[TestRow], problems: dict[str, list[Problem]]) -> dict[str, Any]:
    """Counts a person and the model card read; no times, no machine."""
    splits: dict[str, Any] = {}
    for split, table in rows.items():
        corpora = {}
        for name in sorted({row.corpus for row in table}):
            of_corpus = [row for row in table if row.corpus == name]
            corpora[name] = {
                "rows": len(of_corpus),
                "clips": len({row.media_sha256 for row in of_corpus}),
                "turns": sum(len(row.qa) for row in of_corpus),
                "text_tokens": sum(row.num_tokens for row in of_corpus),
                "media_sha256": _digest(row.media_sha256 for row in of_corpus),
            }
        splits[split] = {"rows": len(table), "corpora": corpora}
    benchmarks = sorted({row.benchmark for row in tests})
    splits["test"] = {
        "rows": len(tests),
        "benchmarks": {
            name: {
                "rows": sum(row.benchmark == name for row in tests),
                "clips": len({row.media_sha256 for row in tests if row.benchmark == name}),
                "media_sha256": _digest(row.media_sha256 for row in tests if row.benchmark == name),
            }
            for name in benchmarks
        },
    }
    for split, bad in problems.items():
        counts = Counter(code for problem in bad for code, _ in problem.reasons)
        splits[split]["quarantined"] = {"rows": len(bad), "reasons": dict(sorted(counts.items()))}
    return {"splits": splits}


def _digest(hashes: Any) -> str:
    """One sha256 over a set of content hashes, whatever their order."""
    import hashlib

    return hashlib.sha256("\n".join(sorted(set(hashes))).encode()).hexdigest()


def _path(sample: Instruction) -> str:
    return (sample.corpus.media / sample.media).as_posix()


def _quarantined(split: str, problem: Problem) -> QuarantinedRow:
    codes = ", ".join(sorted({code for code, _ in problem.reasons}))
    reasons = "; ".join(text for _, text in problem.reasons)
    return QuarantinedRow(split, problem.corpus, problem.file, problem.index, problem.media, codes, reasons)
