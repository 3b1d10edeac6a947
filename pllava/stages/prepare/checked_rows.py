"""A corpus, checked a chunk of rows at a time: `for chunk in checked_chunks(corpus, "train", ...): chunk.rows, chunk.bad`.

A chunk is a pure function of its rows, its media and the text settings. It is kept on disk under a hash of these, so that `prepare`
continues after a kill. Checks that need all rows (duplicates, clips in two splits) come later, in `assembly`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pllava.artifacts.manifest import ManifestRow, QuarantinedRow, schema_of
from pllava.core.hashing import code_sha256, sha256_file, work_key
from pllava.core.params import Corpus
from pllava.stages.prepare.instruction import Instruction, Problem, instructions
from pllava.stages.prepare.media import Bound, MediaReport
from pllava.stages.prepare.media_checks import MediaChecks
from pllava.stages.prepare.text_checks import TextChecker

CHUNK = 4096  # rows


@dataclass
class Chunk:
    """Two Arrow tables. `rows`: ManifestRow plus `index`, `digest` (hash of media and text) and `cut`. `bad`: QuarantinedRow."""

    rows: Any
    bad: Any
    file: str  # the annotation file


@dataclass(frozen=True)
class Checks:
    """The checkers and limits that every row goes through."""

    text: TextChecker
    media: MediaChecks
    max_seconds: float | None
    parts: Path | None = None  # folder for finished chunks; None: they are not kept


def checked_chunks(corpus: Corpus, split: str, checks: Checks, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Chunk]:
    """Chunks of the wanted rows, in the order of the file. Raises PllavaError if the file is unusable."""
    all_rows = instructions(corpus, wanted)
    key = _key(corpus, split, checks) if checks.parts else ""
    number = 0
    while rows := list(islice(all_rows, CHUNK)):
        bounds: dict[str, dict[Bound, None]] = {}  # path -> the distinct time bounds that rows name
        for row in rows:
            if isinstance(row, Instruction) and row.media:
                bounds.setdefault(media_path(row), {})[row.start, row.end] = None
        reports = checks.media.reports(bounds)
        yield _chunk(rows, split, reports, checks, str(corpus.annotations), f"{key} {number}")
        number += 1


def media_path(row: Instruction) -> str:
    """The path of the row's clip or picture; "" for text alone."""
    return "" if not row.media else f"{row.corpus.media.as_posix()}/{row.media}"


def _chunk(rows: list[Instruction | Problem], split: str, reports: dict[str, MediaReport], checks: Checks, file: str, key: str) -> Chunk:
    """A chunk: read from disk if an earlier run has finished it, else made and written there."""
    import pyarrow.parquet as pq

    if checks.parts is None:
        return _make(rows, split, reports, checks, file)
    summaries = [(path, reports[path].summary) for path in sorted(reports)]
    name = hashlib.sha256(f"{key} {[row.index for row in rows]} {summaries}".encode()).hexdigest()
    files = {kind: checks.parts / f"{name[:32]}.{kind}.parquet" for kind in ("bad", "rows")}
    if files["rows"].exists():  # written last
        return Chunk(pq.read_table(files["rows"], partitioning=None), pq.read_table(files["bad"], partitioning=None), file)
    chunk = _make(rows, split, reports, checks, file)
    for kind, part in files.items():
        temporary = part.with_suffix(f".{os.getpid()}.partial")
        pq.write_table(getattr(chunk, kind), temporary, compression="lz4")
        temporary.replace(part)
    return chunk


def _make(candidates: list[Instruction | Problem], split: str, reports: dict[str, MediaReport], checks: Checks, file: str) -> Chunk:
    """Check every candidate row, and sort the rows into usable and bad ones."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for row in candidates:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        media = reports[media_path(row)] if row.media else MediaReport("")
        text = checks.text.report(row.turns, media=bool(row.media))
        reasons = list(text.reasons)
        if problem := media.problem_of((row.start, row.end)):
            reasons.append(problem)
        elif checks.max_seconds and (seconds := _length(row, media)) > checks.max_seconds:
            reasons.append(("media over-long", f"{media.path} has {seconds:.1f} s, data.max_seconds is {checks.max_seconds:g}"))
        if reasons:
            problems.append(Problem(row.corpus.name, str(row.corpus.annotations), row.index, media.path, reasons))
            continue
        rows.append(
            {
                "id": row.id,
                "corpus": row.corpus.name,
                "kind": row.corpus.kind,
                "media": media.path,
                "media_sha256": media.sha256,
                "start": row.start,
                "end": row.end,
                "num_frames_total": media.num_frames_total,
                "fps": media.fps,
                "duration": media.duration,
                "num_tokens": text.num_tokens,
                "qa": [{"i": turn.i, "q": turn.q, "a": turn.a} for turn in row.turns],
                "index": row.index,
                "digest": _digest(row, media),
                "cut": text.cut,
            }
        )
    bad = [asdict(quarantined(split, problem)) for problem in problems]
    return Chunk(pa.Table.from_pylist(rows, schema=_rows_schema()), pa.Table.from_pylist(bad, schema=schema_of(QuarantinedRow)), file)


def quarantined(split: str, problem: Problem) -> QuarantinedRow:
    """The row of quarantined.parquet that describes a problem."""
    codes = ", ".join(sorted({code for code, _ in problem.reasons}))
    reasons = "; ".join(text for _, text in problem.reasons)
    return QuarantinedRow(split, problem.corpus, problem.file, problem.index, problem.media, codes, reasons)


def _rows_schema() -> Any:
    import pyarrow as pa

    schema = schema_of(ManifestRow)
    return schema.append(pa.field("index", pa.int64())).append(pa.field("digest", pa.binary(16))).append(pa.field("cut", pa.bool_()))


def _length(row: Instruction, media: MediaReport) -> float:
    """Length in seconds of the part of the clip that the row names."""
    end = media.duration if row.end is None else min(row.end, media.duration)
    return end - (row.start or 0.0)


def _digest(row: Instruction, media: MediaReport) -> bytes:
    """16 bytes, equal for rows of the same media content, time bounds and text. Names and ids do not count."""
    text = json.dumps([media.sha256, row.start, row.end, [[turn.i, turn.q, turn.a] for turn in row.turns]])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _key(corpus: Corpus, split: str, checks: Checks) -> str:
    """A hash of everything that the chunks of a corpus depend on, except their media."""
    settings = [split, corpus.name, corpus.kind, str(corpus.annotations), str(corpus.media), checks.max_seconds, CHUNK]
    text, code = checks.text.sha256, code_sha256("stages/prepare")
    return work_key(settings=settings, annotations=sha256_file(corpus.annotations), text=text, code=code)
