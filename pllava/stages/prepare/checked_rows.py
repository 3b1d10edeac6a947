"""A corpus, checked a chunk of rows at a time: `for chunk in checked_chunks(corpus, "train", ...): chunk.rows, chunk.bad`.

A chunk is a pure function of its rows, its media and the text settings. It is kept on disk under a name that holds a hash of these, so that
`prepare` goes on where it was killed; what depends on the order of all rows (duplicates, splits) comes later, in `assembly`.
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
    """Arrow tables: `rows` is ManifestRow with `index`, `digest` (of media and text) and `cut` beside it, `bad` is QuarantinedRow."""

    rows: Any
    bad: Any
    file: str  # the annotations


@dataclass(frozen=True)
class Checks:
    """What rows are checked with."""

    text: TextChecker
    media: MediaChecks
    max_seconds: float | None
    parts: Path | None = None  # where finished chunks are kept; None: nowhere


def checked_chunks(corpus: Corpus, split: str, checks: Checks, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Chunk]:
    """Chunks of the wanted rows, in the order of the file. Raises PllavaError if the file is unusable."""
    rows = instructions(corpus, wanted)
    key = _key(corpus, split, checks) if checks.parts else ""
    number = 0
    while some := list(islice(rows, CHUNK)):
        asked: dict[str, dict[Bound, None]] = {}
        for row in some:
            if isinstance(row, Instruction) and row.media:
                asked.setdefault(media_path(row), {})[row.start, row.end] = None
        reports = checks.media.reports(asked)
        yield _chunk(some, split, reports, checks, str(corpus.annotations), f"{key} {number}")
        number += 1


def media_path(row: Instruction) -> str:
    return "" if not row.media else f"{row.corpus.media.as_posix()}/{row.media}"


def _chunk(some: list[Instruction | Problem], split: str, reports: dict[str, MediaReport], checks: Checks, file: str, key: str) -> Chunk:
    """A chunk that is on disk already, or made and kept there."""
    import pyarrow.parquet as pq

    if checks.parts is None:
        return _make(some, split, reports, checks, file)
    found = [(path, reports[path].summary) for path in sorted(reports)]
    name = hashlib.sha256(f"{key} {[row.index for row in some]} {found}".encode()).hexdigest()
    files = {kind: checks.parts / f"{name[:32]}.{kind}.parquet" for kind in ("bad", "rows")}
    if files["rows"].exists():  # written last
        return Chunk(pq.read_table(files["rows"], partitioning=None), pq.read_table(files["bad"], partitioning=None), file)
    chunk = _make(some, split, reports, checks, file)
    for kind, part in files.items():
        temporary = part.with_suffix(f".{os.getpid()}.partial")
        pq.write_table(getattr(chunk, kind), temporary, compression="lz4")
        temporary.replace(part)
    return chunk


def _make(some: list[Instruction | Problem], split: str, reports: dict[str, MediaReport], checks: Checks, file: str) -> Chunk:
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for row in some:
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
    codes = ", ".join(sorted({code for code, _ in problem.reasons}))
    reasons = "; ".join(text for _, text in problem.reasons)
    return QuarantinedRow(split, problem.corpus, problem.file, problem.index, problem.media, codes, reasons)


def _rows_schema() -> Any:
    import pyarrow as pa

    schema = schema_of(ManifestRow)
    return schema.append(pa.field("index", pa.int64())).append(pa.field("digest", pa.binary(16))).append(pa.field("cut", pa.bool_()))


def _length(row: Instruction, media: MediaReport) -> float:
    """Seconds of the clip that the row is about."""
    end = media.duration if row.end is None else min(row.end, media.duration)
    return end - (row.start or 0.0)


def _digest(row: Instruction, media: MediaReport) -> bytes:
    """Equal for rows of the same media, part and text, whatever they are called."""
    text = json.dumps([media.sha256, row.start, row.end, [[turn.i, turn.q, turn.a] for turn in row.turns]])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _key(corpus: Corpus, split: str, checks: Checks) -> str:
    """What all chunks of a corpus depend on, besides their media."""
    settings = [split, corpus.name, corpus.kind, str(corpus.annotations), str(corpus.media), checks.max_seconds, CHUNK]
    text, code = checks.text.sha256, code_sha256("stages/prepare")
    return work_key(settings=settings, annotations=sha256_file(corpus.annotations), text=text, code=code)
