"""Captions with their times as WebVTT, SRT or JSON: `write_captions("long.vtt", dense)`.

WebVTT: https://www.w3.org/TR/webvtt1/. SRT has no standard and no escapes: characters that
a player could take for markup are replaced by look-alikes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pllava.chat.caption.segment import Segment
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, write_json

FORMATS = ("vtt", "srt", "json")
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]|[\ud800-\udfff]")
EMPTY = "…"  # the text of a cue without words: a blank line would end an SRT cue


def format_of(path: str | Path, format: str | None = None) -> str:
    """`format`, or the format of the file's ending. Raises PllavaError for an unknown format."""
    name = format or Path(path).suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise PllavaError(f"{path}: {name or 'a name without an ending'} is no format for dense captions; use {', '.join(FORMATS)}")
    return name


def write_captions(path: str | Path, entry: dict[str, Any], format: str | None = None) -> None:
    """Write the file atomically. entry: of `DenseCaption.entry()`."""
    kind = format_of(path, format)
    if kind == "json":
        write_json(path, entry)
        return
    segments = [Segment(**segment) for segment in entry["segments"]]
    atomic_write_text(path, to_vtt(segments, entry["notes"]) if kind == "vtt" else to_srt(segments))


def to_vtt(segments: Iterable[Segment], notes: Iterable[str] = ()) -> str:
    """The text of a WebVTT file. notes: comments at the head of the file."""
    blocks = ["WEBVTT", *("NOTE " + _lines(note).replace("-->", "->") for note in notes)]
    for start, end, text in _cues(segments):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # escapes --> as well
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escaped}")
    return "\n\n".join(blocks) + "\n"


def to_srt(segments: Iterable[Segment]) -> str:
    """The text of an SRT file."""
    blocks = []
    for number, (start, end, text) in enumerate(_cues(segments), 1):
        plain = re.sub(r"<(?=[A-Za-z/!])", "‹", text.replace("-->", "→")).replace("{\\", "{∖")
        blocks.append(f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{plain}\n")
    return "\n".join(blocks)


def _cues(segments: Iterable[Segment]) -> Iterable[tuple[int, int, str]]:
    """Start, end and text of each cue. Times are milliseconds; a cue lasts at least 1 ms."""
    for segment in segments:
        start, end = round(1000 * segment.start), round(1000 * segment.end)
        yield start, max(end, start + 1), _lines(segment.text)


def _lines(text: str) -> str:
    """The text without blank lines, which would end a cue, and with U+FFFD for control characters."""
    lines = (" ".join(line.split()) for line in CONTROLS.sub("\ufffd", text).splitlines())
    return "\n".join(line for line in lines if line) or EMPTY


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"
