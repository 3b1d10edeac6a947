"""Annotation files, a row at a time and in constant memory: `for index, row in rows_of("train.json"): ...`

A file is a JSON list, or JSON lines (first character `{` in a file named .jsonl or .ndjson; blank lines do not count). It is UTF-8, with
or without a byte order mark.
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
UTF_16 = (b"\xff", b"\xfe")  # first byte of its byte order mark
HALVES = re.compile(r"[\ud800-\udfff]")  # of a surrogate pair


class NotJson(str):
    """What stands in the place of a line that cannot be read: why."""


def rows_of(path: str | Path, what: str = "an annotation file") -> Iterator[tuple[int, Any]]:
    """(index from 0, row) in the order of the file. A bad JSON line comes as `NotJson`, and the next lines are still read.

    Raises PllavaError when the file is not there or, at the place where it goes wrong, not a list of JSON; `what` names it in the error.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            first = _first_character(file)
            if first == b"[":
                yield from enumerate(_items(file, path, what))
            elif first == b"{" and path.suffix.lower() in LINES:
                yield from enumerate(_lines(file))
            else:
                found = "is empty" if not first else "holds an object" if first == b"{" else f"begins with {first!r}"
                found = "is UTF-16, not UTF-8:" if first in UTF_16 else found
                raise PllavaError(f"{path} {found}, a JSON list of rows is needed, or one row a line in a file named .jsonl ({what})")
    except FileNotFoundError:
        raise PllavaError(f"{path} is not there: {what} in params.yaml. Put the file there (the built-in corpus: pllava render)") from None
    except IsADirectoryError:
        raise PllavaError(f"{path} is a folder, {what} is one JSON or JSONL file. Name the file inside it") from None


def count_rows(path: str | Path, what: str = "an annotation file") -> int:
    return sum(1 for _ in rows_of(path, what))


def _first_character(file: IO[bytes]) -> bytes:
    """The first one that is not white space; the file is rewound to where its text begins."""
    begin = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(begin)
    while (character := file.read(1)) and character.isspace():
        pass
    file.seek(begin)
    return character


def _items(file: IO[bytes], path: Path, what: str) -> Iterator[Any]:
    import ijson

    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PllavaError(f"{path} is not JSON: {reason}. It is {what}; write it again, then: pllava prepare") from None


def _lines(file: IO[bytes]) -> Iterator[Any]:
    for line in file:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            row = NotJson(f"the line is not JSON: {error}")
        if b"\\ud" in line.lower() and HALVES.search(json.dumps(row, ensure_ascii=False)):
            row = NotJson("the line holds half a character (\\ud800 to \\udfff alone), which is no text")
        yield row
