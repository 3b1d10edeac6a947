"""Annotation files, a row at a time and in constant memory: `for index, row in rows_of("train.json"): ...`

A file is a JSON list, or JSON lines: its first character is `{` and its name ends in .jsonl or .ndjson. Blank lines do not count. The text
is UTF-8, with or without a byte order mark. A whole number of more than 15 digits is read as a float: no key of a row needs it exactly.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pllava.core.errors import PllavaError

LINES = (".jsonl", ".ndjson")
UTF_16 = (b"\xff", b"\xfe")  # first byte of a UTF-16 byte order mark
SURROGATES = re.compile(r"[\ud800-\udfff]")
SPACE = re.compile(r"[ \t\r\n]*")
CHUNK, LONGEST_ROW = 1 << 16, 1 << 26  # characters: read at once; of a row in a list, which also is in memory
DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits))


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
    items = _List(file)
    try:
        yield from items
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        where = f"{path} is not JSON at row {items.number}"
        raise PllavaError(f"{where}: {error}. It is {role}; write it again, then: pllava prepare") from None


class _List:
    """The items of a JSON list; `number` counts them. Raises ValueError for other text. The buffer grows until the next item is whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._stream = io.TextIOWrapper(file, "utf-8")
        self._buffer, self._position, self.number = "", 0, 0

    def __iter__(self) -> Iterator[Any]:
        separator = self._character("[")
        if self._peek() == "]":
            separator = self._character("]")
        while separator != "]":
            yield self._item()
            self.number += 1
            separator = self._character(",]")
        if self._peek():
            raise ValueError("there is text after the list")

    def _peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self._position = SPACE.match(self._buffer, self._position).end()  # type: ignore[union-attr]  # it matches the empty text
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._grow():
                return ""

    def _character(self, expected: str) -> str:
        """Consume the next character, one of `expected`."""
        character = self._peek()
        if not character or character not in expected:
            raise ValueError(f"{character!r} instead of {' or '.join(expected)}" if character else "it ends in the middle")
        self._position += 1
        return character

    def _item(self) -> Any:
        self._peek()
        while True:
            try:
                row, end = DECODER.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                # Text that is cut fails at its end, or is a string without an end.
                cut = error.pos > len(self._buffer) - CHUNK // 2 or error.msg.startswith("Unterminated string")
                if not cut or len(self._buffer) > LONGEST_ROW or not self._grow():
                    raise ValueError(error.msg) from None
                continue
            if end > len(self._buffer) - 4 and self._grow():  # a number may go on, as in "1", "e-", "5"
                continue
            source, self._position = self._buffer[self._position : end], end
            return _checked(row, source)

    def _grow(self) -> bool:
        """Read as much as the buffer holds, at least CHUNK. At the end of the file, return False and change nothing."""
        text = self._stream.read(max(CHUNK, len(self._buffer) - self._position))
        if text:
            self._buffer, self._position = self._buffer[self._position :] + text, 0
        return bool(text)


def _lines(file: IO[bytes]) -> Iterator[Any]:
    for line in file:
        if not line.strip():
            continue
        try:
            text = line.decode()
            row = _checked(DECODER.decode(text), text)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
            row = NotJson(f"the line is not JSON: {error}")
        yield row


def _checked(row: Any, source: str) -> Any:
    """The row; a `NotJson` when its text holds half a character."""
    if "\\ud" in source.lower() and SURROGATES.search(json.dumps(row, ensure_ascii=False)):
        return NotJson("the row holds half a character (\\ud800 to \\udfff alone), which is no text")
    return row
