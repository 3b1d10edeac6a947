"""Checks over all rows of all chunks: duplicates, clips in two splits, counts and hashes by corpus.

The hash of every row goes to a SQLite file, so that memory stays constant. The file is scratch: it begins empty and is not synced.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pllava.artifacts.manifest import QuarantinedRow, schema_of
from pllava.core.files import state_folder
from pllava.stages.prepare.checked_rows import Chunk

PAGE_CACHE_KB = 32768
SHOWN = 5  # problems and clashes listed in an error


@dataclass
class Counts:
    """Counts of one corpus in one split. `bad`: quarantined rows. `codes`: reason -> rows that have it."""

    rows: int = 0
    turns: int = 0
    text_tokens: int = 0
    cut: int = 0  # rows longer than train.max_length
    checked: int = 0
    bad: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)  # the first SHOWN problems, as text

    def add_bad(self, table: Any) -> None:
        """Count the quarantined rows of an Arrow table."""
        self.bad += table.num_rows
        for row in table.to_pylist():
            self.codes.update(row["codes"].split(", "))
            if len(self.shown) < SHOWN:
                self.shown.append(f"{row['file']} row {row['index']} (corpus {row['corpus']}): {row['reasons']}")


class Assembly:
    """A context manager. Pass all rows of all splits through `add`, in order; then ask for `clips` and `clashes`."""

    def __init__(self, folder: Path) -> None:
        state_folder(folder)
        self.path = folder / "assembly.sqlite"
        self.path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self.path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{PAGE_CACHE_KB}", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE seen (split TEXT, digest BLOB, id TEXT, PRIMARY KEY (split, digest)) WITHOUT ROWID")
        self._database.execute(
            "CREATE TABLE clip (sha BLOB, split TEXT, corpus TEXT, media TEXT, PRIMARY KEY (sha, split, corpus)) WITHOUT ROWID"
        )

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self.path.unlink(missing_ok=True)

    def add(self, split: str, chunk: Chunk, counts: Counts, copies: Callable[[int], int] = lambda index: 1) -> Chunk:
        """The chunk with its duplicates moved to the bad rows, and with each other row as often as `copies` says. Counts go to `counts`."""
        counts.checked += chunk.rows.num_rows + chunk.bad.num_rows
        chunk = self._without_duplicates(split, chunk)
        rows = chunk.rows
        if rows.num_rows:
            import pyarrow.compute as pc

            self.add_clips(split, rows["corpus"][0].as_py(), rows["media_sha256"].to_pylist(), rows["media"].to_pylist())
            rows = _repeated(rows, copies)
            counts.rows += rows.num_rows
            counts.turns += pc.sum(pc.list_value_length(rows["qa"])).as_py()
            counts.text_tokens += pc.sum(rows["num_tokens"]).as_py()
            counts.cut += pc.sum(rows["cut"]).as_py()
        counts.add_bad(chunk.bad)
        return Chunk(rows, chunk.bad, chunk.file)

    def add_clips(self, split: str, corpus: str, hashes: list[str], media: list[str]) -> None:
        """Note the content hashes and paths of clips, one pair a row; rows without media have an empty hash."""
        values = ((bytes.fromhex(sha), split, corpus, path) for sha, path in zip(hashes, media, strict=True) if sha)
        self._database.execute("BEGIN")
        self._database.executemany("INSERT OR IGNORE INTO clip VALUES (?, ?, ?, ?)", values)
        self._database.execute("COMMIT")

    def clips(self, split: str, corpus: str) -> tuple[int, str]:
        """(number of distinct clips of a corpus, one sha256 over their sorted content hashes)."""
        count, digest = 0, hashlib.sha256()
        for (sha,) in self._database.execute("SELECT sha FROM clip WHERE split = ? AND corpus = ? ORDER BY sha", (split, corpus)):
            digest.update((b"\n" if count else b"") + sha.hex().encode())
            count += 1
        return count, digest.hexdigest()

    def clashes(self) -> tuple[int, list[str]]:
        """(number of clips whose content is in two splits, the first SHOWN of them as text)."""
        shared = "SELECT sha FROM clip GROUP BY sha HAVING COUNT(DISTINCT split) > 1"
        (number,) = self._database.execute(f"SELECT COUNT(*) FROM ({shared})").fetchone()
        lines = []
        for (sha,) in self._database.execute(f"{shared} LIMIT {SHOWN}").fetchall():
            copies = self._database.execute("SELECT media, split FROM clip WHERE sha = ? GROUP BY split ORDER BY split DESC", (sha,))
            lines.append("  " + " and ".join(f"{media} ({split})" for media, split in copies))
        return number, sorted(lines)

    def _without_duplicates(self, split: str, chunk: Chunk) -> Chunk:
        import pyarrow as pa

        keep: list[bool] = []
        duplicates = []  # (position in the chunk, id of the first row with this content)
        execute = self._database.execute
        execute("BEGIN")
        for position, (digest, row_id) in enumerate(zip(chunk.rows["digest"].to_pylist(), chunk.rows["id"].to_pylist(), strict=True)):
            fresh = execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (split, digest, row_id)).rowcount == 1
            keep.append(fresh)
            if not fresh:
                (first,) = execute("SELECT id FROM seen WHERE split = ? AND digest = ?", (split, digest)).fetchone()
                duplicates.append((position, first))
        execute("COMMIT")
        if not duplicates:
            return chunk
        return Chunk(chunk.rows.filter(pa.array(keep)), _with_duplicates(split, chunk, duplicates), chunk.file)


def _with_duplicates(split: str, chunk: Chunk, duplicates: list[tuple[int, str]]) -> Any:
    """An Arrow table of the bad rows and the duplicates, in the order of the file."""
    import pyarrow as pa

    added = [
        {
            "split": split,
            "corpus": row["corpus"],
            "file": chunk.file,
            "index": row["index"],
            "media": row["media"],
            "codes": "duplicate",
            "reasons": f"the same media and text as {first}",
        }
        for position, first in duplicates
        for row in chunk.rows.slice(position, 1).to_pylist()
    ]
    table = pa.concat_tables([chunk.bad, pa.Table.from_pylist(added, schema=schema_of(QuarantinedRow))])
    return table.sort_by("index")


def _repeated(rows: Any, copies: Callable[[int], int]) -> Any:
    """Each row as often as `copies` says. Every further copy gets its own id, so that other frames are drawn for it."""
    import pyarrow as pa

    times = [copies(index) for index in rows["index"].to_pylist()]
    if all(count == 1 for count in times):
        return rows
    order = [(position, copy) for position, count in enumerate(times) for copy in range(count)]
    ids = rows["id"].to_pylist()
    names = pa.array([f"{ids[position]}#{copy}" if copy else ids[position] for position, copy in order], pa.string())
    taken = rows.take(pa.array([position for position, _ in order], pa.int64()))
    return taken.set_column(taken.schema.get_field_index("id"), "id", names)
