"""The data gate, `pllava prepare`: annotations and media become one checked manifest a split in data/prepared/.

Every row is checked before any training time is spent: its form, its text (`pllava.stages.prepare.text_checks`) and its media
(`pllava.stages.prepare.media`). Duplicate rows are refused, and so is a clip in two splits, by content and not by name. Unusable rows go to
quarantined.parquet with all their reasons. More than `data.max_bad_fraction` of them in a split stop the stage, and nothing is written.

Rows stream through in chunks, so memory does not grow with the corpora. Finished chunks are kept under .state/prepare, so a killed run
continues there. Equal inputs give equal bytes however often the run was killed.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.artifacts.manifest import PREPARED, ManifestRow, ManifestWriter, QuarantinedRow, TestRow, schema_of
from pllava.artifacts.media_hashes import STATE
from pllava.core.errors import PllavaError
from pllava.core.files import alone, atomic_dir, write_json
from pllava.core.hashing import sha256_file
from pllava.stages.prepare.assembly import SHOWN, Assembly, Counts
from pllava.stages.prepare.checked_rows import CHUNK, Checks, checked_chunks, quarantined
from pllava.stages.prepare.instruction import Problem, size_of
from pllava.stages.prepare.media import WHOLE
from pllava.stages.prepare.media_checks import MediaChecks
from pllava.stages.prepare.mixing import copies_of
from pllava.stages.prepare.progress import Progress
from pllava.stages.prepare.text_checks import TextChecker

if TYPE_CHECKING:
    from pllava.core.params import Corpus, Params

SPLITS: dict[str, type] = {"train": ManifestRow, "validation": ManifestRow, "test": TestRow}


def prepare(params: Params) -> Path:
    """Write data/prepared/{train,validation,test,quarantined}.parquet and report.json.

    Returns the folder. Raises PllavaError on too much bad data, or when another process is running this stage.
    """
    with alone(STATE / "lock", "another pllava prepare is at work in this folder"):
        return _prepare(params)


def _prepare(params: Params) -> Path:
    if not params.data.train or not params.evaluate.benchmarks:
        missing, split = ("data.train", "train") if not params.data.train else ("evaluate.benchmarks", "test")
        raise PllavaError(
            f"{missing} in params.yaml is empty. Add your clips: pllava data add NAME --split {split} --annotations FILE --media FOLDER "
            "(docs/your-data.md)"
        )
    for split in ("train", "validation"):
        _names_differ(split, [corpus.name for corpus in getattr(params.data, split)])
    text = TextChecker(params.model.base, params.model.template, params.train.max_length)
    parts = STATE / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        media = stack.enter_context(MediaChecks(STATE, params.data.workers))
        assembly = stack.enter_context(Assembly(STATE))
        folder = stack.enter_context(atomic_dir(PREPARED))
        writers = {name: ManifestWriter(folder / f"{name}.parquet", row) for name, row in {**SPLITS, "quarantined": QuarantinedRow}.items()}
        for writer in writers.values():
            stack.callback(writer.close)
        progress = Progress()
        report: dict[str, Any] = {}
        for split in ("train", "validation"):
            report[split] = {"corpora": {}}
            split_counts = []
            for corpus in getattr(params.data, split):
                counts, entry = _corpus(corpus, split, Checks(text, media, params.data.max_seconds, parts), assembly, writers, progress)
                split_counts.append(counts)
                report[split]["corpora"][corpus.name] = entry
            _sum_up(split, split_counts, report[split], params.data.max_bad_fraction)
        report["test"] = {"benchmarks": {}}
        benchmark_counts = _benchmarks(params, media, assembly, writers, report["test"]["benchmarks"])
        _sum_up("test", benchmark_counts, report["test"], params.data.max_bad_fraction)
        if not report["train"]["rows"]:
            raise PllavaError("no usable training row. Add rows to the corpora of data.train in params.yaml, then: pllava prepare")
        _no_clip_in_two_splits(assembly)
        for writer in writers.values():
            writer.close()
        files = {f"{name}.parquet": sha256_file(folder / f"{name}.parquet") for name in writers}
        write_json(folder / "report.json", {"splits": report, "files": files})  # written last: its existence means that the folder is whole
        print(f"{PREPARED}: {', '.join(f'{w.rows} {name}' for name, w in writers.items())} row(s)", file=sys.stderr)
    shutil.rmtree(parts)
    return PREPARED


def _names_differ(split: str, names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise PllavaError(f"data.{split} in params.yaml names corpus {twice[0]!r} twice; sample ids need different names")


def _corpus(
    corpus: Corpus, split: str, checks: Checks, assembly: Assembly, writers: dict[str, ManifestWriter], progress: Progress
) -> tuple[Counts, dict[str, Any]]:
    """Stream one corpus into its manifest. Returns its counts and its entry in the report."""
    size = size_of(corpus)
    copies = copies_of(corpus.name, size, corpus.weight, corpus.max_rows)
    counts = Counts()
    for chunk in checked_chunks(corpus, split, checks, lambda index: copies(index) > 0):
        chunk = assembly.add(split, chunk, counts, copies)
        writers[split].write(chunk.rows)
        writers["quarantined"].write(chunk.bad)
        progress.say(f"{split} {corpus.name}", counts.checked, size, checks.media.decoded)
    clips, media_sha256 = assembly.clips(split, corpus.name)
    entry = {
        "annotations_sha256": sha256_file(corpus.annotations),
        "annotation_rows": size,
        "weight": corpus.weight,
        "max_rows": corpus.max_rows,
        "checked": counts.checked,
        "quarantined": counts.bad,
        "rows": counts.rows,
        "clips": clips,
        "turns": counts.turns,
        "text_tokens": counts.text_tokens,
        "rows_cut_to_max_length": counts.cut,
        "media_sha256": media_sha256,
    }
    return counts, entry


def _benchmark_samples(params: Params) -> list[tuple[str, Any]]:
    """(name of the benchmark, sample) for every sample of every benchmark."""
    from pllava.benchmarks.benchmark import load_benchmark

    benchmarks = sorted(params.evaluate.benchmarks.items())
    return [(name, sample) for name, entry in benchmarks for sample in load_benchmark(name, entry.source).samples(entry.root)]


def _annotation_file(params: Params, name: str, stem: str) -> str:
    """The path of the benchmark file that holds the samples with ids "<stem>/<number>"."""
    from pllava.benchmarks.benchmark import load_benchmark

    entry = params.evaluate.benchmarks[name]
    files = load_benchmark(name, entry.source).annotations(entry.root)
    exact = [path for path in files if path.stem == stem]
    prefixed = [path for path in files if path.stem.startswith(f"{stem}_")]  # "generic" -> generic_qa.json
    # Where ids begin with the benchmark's name, the samples are in the last file: test_q.json.
    return str((exact or prefixed or files[-1:] or [entry.root])[0])


def _benchmarks(
    params: Params, media: MediaChecks, assembly: Assembly, writers: dict[str, ManifestWriter], report: dict[str, Any]
) -> list[Counts]:
    """Check the media of every benchmark sample and write test.parquet. Returns the counts of each benchmark, and fills `report`."""
    counts_by_name: dict[str, Counts] = {}
    for batch in _batches(_benchmark_samples(params)):
        reports = media.reports({sample.media.as_posix(): [WHOLE] for _, sample in batch})
        rows, problems = [], []
        for name, sample in batch:
            counts = counts_by_name.setdefault(name, Counts())
            counts.checked += 1
            media_report = reports[sample.media.as_posix()]
            stem, _, number = sample.id.rpartition("/")
            index = int(number) if number.isdecimal() else counts.checked - 1  # a user's benchmark may have other ids
            reasons = [reason] if (reason := media_report.problem_of(WHOLE)) else []
            if sample.candidates and sample.answer not in sample.candidates:
                reasons.append(("answer is no option", f"the answer {sample.answer!r} is none of the options, so no reply can be right"))
            if reasons:
                file = _annotation_file(params, name, stem)
                problems.append(quarantined("test", Problem(name, file, index, media_report.path, reasons)))
            else:
                counts.rows += 1
                rows.append(TestRow(name, sample.task, index, media_report.path, media_report.sha256))
        for name, counts in counts_by_name.items():
            own = [row for row in rows if row.benchmark == name]
            assembly.add_clips("test", name, [row.media_sha256 for row in own], [row.media for row in own])
            counts.add_bad(_table([row for row in problems if row.corpus == name], QuarantinedRow))
        writers["test"].write(_table(rows, TestRow))
        writers["quarantined"].write(_table(problems, QuarantinedRow))
    for name, counts in sorted(counts_by_name.items()):
        clips, media_sha256 = assembly.clips("test", name)
        report[name] = {"rows": counts.rows, "clips": clips, "media_sha256": media_sha256}
    return list(counts_by_name.values())


def _table(rows: list[Any], row_type: type) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema_of(row_type))


def _batches(samples: list[Any]) -> Iterator[list[Any]]:
    remaining = iter(samples)
    while batch := list(islice(remaining, CHUNK)):
        yield batch


def _sum_up(split: str, counts_of_parts: list[Counts], report: dict[str, Any], max_bad_fraction: float) -> None:
    """Write the sums of a split into its report. counts_of_parts: of each corpus or benchmark.

    Raises PllavaError when more than `max_bad_fraction` of the rows are bad.
    """
    bad, total = sum(counts.bad for counts in counts_of_parts), sum(counts.checked for counts in counts_of_parts)
    codes: Counter[str] = sum((counts.codes for counts in counts_of_parts), Counter())
    reasons = dict(sorted(codes.items()))
    report["rows"] = sum(counts.rows for counts in counts_of_parts)
    report["quarantined"] = {"rows": bad, "reasons": reasons}
    if not bad or bad / total <= max_bad_fraction:
        return
    shown = [f"  {line}" for counts in counts_of_parts for line in counts.shown][:SHOWN]
    more = [f"  ... and {bad - SHOWN} more"] if bad > SHOWN else []
    raise PllavaError(
        f"{bad} of {total} {split} row(s) cannot be used, data.max_bad_fraction allows {max_bad_fraction:.1%} "
        f"({', '.join(f'{code}: {count}' for code, count in reasons.items())})\n" + "\n".join([*shown, *more]) + "\n"
        "Mend or remove these rows or files, or raise data.max_bad_fraction in params.yaml, then: pllava prepare"
    )


def _no_clip_in_two_splits(assembly: Assembly) -> None:
    number, lines = assembly.clashes()
    if number:
        raise PllavaError(
            f"{number} clip(s) are in two splits (same content), so a score would be too good:\n"
            + "\n".join(lines)
            + "\nTake them out of one of the two, then: pllava prepare"
        )
