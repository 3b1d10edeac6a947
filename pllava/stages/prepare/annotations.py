"""Annotation files, a row at a time and in constant memory: `for index, row in rows_of("train.json"): ...`

A file is a JSON list, or JSON lines: its first character is `{` and its name ends in .jsonl or .ndjson. Blank lines do not count. The text
is UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pllava.core.errors import PllavaError

LINES = (".jsonl", ".ndjson")
UTF_16 = (b"\xff", b"\xfe")  # first byte of a UTF-16 byte order mark
SURROGATES = re.compile(r"[\ud800-\udfff]")


class NotJson(str):
    """Stands in for a line that cannot be read. Its text is the reason."""


def rows_of(path: str | Path, role: str = "an annotation file") -> Iterator[tuple[int, Any]]:
    """(index from 0, row) in the order of the file. A line that is not JSON comes as `NotJson`, and the next lines are still read.

    Raises PllavaError when the file is missing, and at the first row where a JSON list is malformed. role: what the file is, for errors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            first = _first_character(file)
            if first == b"[":
                yield from enumerate(_items(file, path, role))
            elif first == b"{" and path.suffix.lower() in LINES:
                yield from enumerate(_lines(file))
            else:
                content = "is empty" if not first else "holds an object" if first == b"{" else f"begins with {first!r}"
                content = "is UTF-16, not UTF-8:" if first in UTF_16 else content
                raise PllavaError(f"{path} {content}, a JSON list of rows is needed, or one row a line in a file named .jsonl ({role})")
    except FileNotFoundError:
        raise PllavaError(f"{path} is not there: {role} in params.yaml. Put the file there (the built-in corpus: pllava render)") from None
    except IsADirectoryError:
        raise PllavaError(f"{path} is a folder, {role} is one JSON or JSONL file. Name the file inside it") from None


def count_rows(path: str | Path, role: str = "an annotation file") -> int:
    return sum(1 for _ in rows_of(path, role))


def _first_character(file: IO[bytes]) -> bytes:
    """The first character that is not white space. The file is rewound to the begin of its text, after a byte order mark."""
    begin = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(begin)
    while (character := file.read(1)) and character.isspace():
        pass
    file.seek(begin)
    return character


def _items(file: IO[bytes], path: Path, role: str) -> Iterator[Any]:
    import ijson

    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PllavaError(f"{path} is not JSON: {reason}. It is {role}; write it again, then: pllava prepare") from None


def _lines(file: IO[bytes]) -> Iterator[Any]:
    for line in file:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            row = NotJson(f"the line is not JSON: {error}")
        if b"\\ud" in line.lower() and SURROGATES.search(json.dumps(row, ensure_ascii=False)):
            row = NotJson("the line holds half a character (\\ud800 to \\udfff alone), which is no text")
        yield row
