"""The manifest: one Parquet file a split, one row a sample, every row already checked by `pllava.stages.prepare.run`.

    python -c "from pllava.artifacts.manifest import read_manifest; print(read_manifest('data/prepared/train.parquet')[0])"

Equal rows are equal bytes: fixed schema, order, compression and row groups.
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

    `media` is a path from the project folder, `media_sha256` its content; `start`, `end` and `duration` are seconds,
    `num_frames_total` counts the whole file; `num_tokens` is the text after the cut to train.max_length, without visual tokens.
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
    """A benchmark sample's media: what must not be trained on."""

    __test__ = False  # not a pytest class

    benchmark: str
    task: str
    index: int
    media: str
    media_sha256: str


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that is left out, with all reasons."""

    split: str
    corpus: str
    file: str
    index: int
    media: str
    codes: str
    reasons: str


def schema_of(row_type: type) -> Any:
    """Arrow schema of a row's dataclass."""
    import pyarrow as pa

    qa = pa.list_(pa.struct([(key, pa.string()) for key in ("i", "q", "a")]))
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64(), "list[dict[str, str]]": qa}
    return pa.schema([(field.name, types[str(field.type)]) for field in fields(row_type)])


class ManifestWriter:
    """Writes tables of any size as one Parquet file with row groups of one size: the bytes depend on the rows alone."""

    def __init__(self, path: Path, row_type: type) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.schema, self.rows = schema_of(row_type), 0
        self._waiting = pa.Table.from_pylist([], schema=self.schema)
        self._writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def write(self, table: Any) -> None:
        """Append a table; columns that the row type lacks are left out."""
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
    """Rows of train.parquet or validation.parquet. Raises PllavaError when it is not there or of another form."""
    return _read(Path(path), ManifestRow)


def read_test_rows(path: str | Path) -> list[TestRow]:
    """Rows of test.parquet. Raises PllavaError when it is not there or of another form."""
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
