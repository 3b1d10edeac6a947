"""The manifest: one Parquet file for each split, one row for each sample. `pllava.stages.prepare.run` has checked every row.

    python -c "from pllava.artifacts.manifest import read_manifest; print(read_manifest('data/prepared/train.parquet')[0])"

Schema, order, compression and size of row groups are fixed, so equal rows give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError

PREPARED = Path("data/prepared")
ROW_GROUP = 16384  # rows


@dataclass(frozen=True)
class ManifestRow:
    """A training or validation sample.

    `media` is a path relative to the project folder, `media_sha256` the hash of its bytes. `start`, `end` and `duration` are in seconds.
    `num_frames_total` counts the frames of the whole file. `num_tokens` counts text tokens (not visual tokens) after the cut to
    train.max_length.
    """

    id: str
    corpus: str
    kind: str
    media: str
    media_sha256: str
    start: float | None
    end: float | None
    num_frames_total: int
    fps: float
    duration: float
    num_tokens: int
    qa: list[dict[str, str]]


@dataclass(frozen=True)
class TestRow:
    """The media of a benchmark sample. Training data must not contain it."""

    __test__ = False  # not a pytest class

    benchmark: str
    task: str
    index: int
    media: str
    media_sha256: str


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that `prepare` left out, with all reasons."""

    split: str
    corpus: str
    file: str
    index: int
    media: str
    codes: str
    reasons: str


def schema_of(row_type: type) -> Any:
    """Arrow schema of a row's dataclass: its fields in their order."""
    import pyarrow as pa

    qa = pa.list_(pa.struct([(key, pa.string()) for key in ("i", "q", "a")]))
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64(), "list[dict[str, str]]": qa}
    return pa.schema([(field.name, types[str(field.type)]) for field in fields(row_type)])


class ManifestWriter:
    """Writes tables as one Parquet file with row groups of ROW_GROUP rows. The bytes depend on the rows, not on the sizes of the tables."""

    def __init__(self, path: Path, row_type: type) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.schema, self.rows = schema_of(row_type), 0
        self._waiting = pa.Table.from_pylist([], schema=self.schema)
        self._writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def write(self, table: Any) -> None:
        """Append a table. Columns that are not in the schema are left out."""
        import pyarrow as pa

        self.rows += table.num_rows
        self._waiting = pa.concat_tables([self._waiting, table.select(self.schema.names)])
        while self._waiting.num_rows >= ROW_GROUP:
            self._writer.write_table(self._waiting.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
            self._waiting = self._waiting.slice(ROW_GROUP)

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        if not self._writer.is_open:
            return
        if self._waiting.num_rows:
            self._writer.write_table(self._waiting.combine_chunks(), row_group_size=ROW_GROUP)
        self._writer.close()


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """Rows of train.parquet or validation.parquet. Raises PllavaError when the file is missing, or has other columns."""
    return _read(Path(path), ManifestRow)


def read_test_rows(path: str | Path) -> list[TestRow]:
    """Rows of test.parquet. Raises PllavaError when the file is missing, or has other columns."""
    return _read(Path(path), TestRow)


def _read(path: Path, row_type: type) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise PllavaError(f"{path} is not there. Write it: pllava prepare") from None
    except pa.ArrowInvalid as error:
        raise PllavaError(f"{path} is not a Parquet file: {error}. Write it again: pllava prepare") from None
    expected = set(schema_of(row_type).names)
    if set(table.column_names) != expected:
        raise PllavaError(f"{path} has columns {sorted(table.column_names)}, needed are {sorted(expected)}. Write it again: pllava prepare")
    return [row_type(**row) for row in table.to_pylist()]
