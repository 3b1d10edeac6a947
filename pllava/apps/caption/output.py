"""Writes captions to a file, a row at a time: JSON lines, CSV or Parquet. The old file stays until the new file is complete."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pllava.apps.caption.store import Row
from pllava.core.errors import PllavaError
from pllava.core.files import replacing

FORMATS = ("jsonl", "parquet", "csv")
ROW_GROUP = 1024  # rows of a Parquet file that are in memory
PLAIN = ("video", "caption", "duration", "num_frames")
DENSE = ("video", "start", "end", "text")  # CSV: a line a segment


def format_of(path: Path, requested: str | None = None) -> str:
    """The requested format, else the suffix of `path`. Raises PllavaError when it is none of FORMATS."""
    name = requested or path.suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise PllavaError(f"{path}: {name or 'a name without an ending'} is no format for captions; use --format {', '.join(FORMATS)}")
    return name


def require_writable(path: Path) -> None:
    """Raises PllavaError when the file cannot be written. Call it before the work, so that no captions are lost."""
    if path.is_dir():
        raise PllavaError(f"{path} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise PllavaError(f"{path}: cannot be written ({error.strerror}). Choose another place") from None


def write_rows(path: Path, rows: Iterable[Row], format: str, dense: bool) -> int:
    """Returns the number of rows written."""
    count = 0

    def counted() -> Iterator[Row]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    with replacing(path) as partial:
        {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}[format](partial, counted(), dense)
    return count


def printable(path: str) -> str:
    """A file's name as text. Bytes that are not UTF-8 become `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _jsonl(path: Path, rows: Iterable[Row], dense: bool) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _csv(path: Path, rows: Iterable[Row], dense: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(DENSE if dense else PLAIN)
        for row in rows:
            if dense:
                writer.writerows([row["video"], part["start"], part["end"], part["text"]] for part in row["segments"])
            else:
                writer.writerow([row[name] for name in PLAIN])


def _parquet(path: Path, rows: Iterable[Row], dense: bool) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    segment = pa.struct([("start", real), ("end", real), ("text", text), ("start_frame", whole), ("end_frame", whole)])
    fields: list[tuple[str, Any]] = [("video", text), ("caption", text), ("duration", real), ("num_frames", whole)]
    if dense:
        lists = [("segments", pa.list_(segment)), ("summary", text), ("notes", pa.list_(text))]
        fields = [fields[0], *fields[2:], *lists]
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
