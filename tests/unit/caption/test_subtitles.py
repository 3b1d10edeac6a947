"""Subtitles hold what the captions say, whatever that is, and are valid."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from pllava.apps.caption.single import is_one
from pllava.chat.caption.segment import Segment
from pllava.chat.caption.subtitles import to_srt, to_vtt, write_captions
from pllava.core.errors import PllavaError

HOSTILE = [
    "a --> b",
    "<b>bold</b> & <00:00:01.000> more",
    "line\n\n\nline\r\n\r\nWEBVTT\n\nNOTE no",
    "\x00\x07nul, \ufeffmark, \ud83d alone",
    "",
    "  \n ",
    "1 < 2 > 0",
    "00:00:09.000 --> 00:00:10.000",
    "{\\an8}top 日本語 🎬",
]
SEGMENTS = [Segment(3600.0 * 100 * number + 0.0004, 3600.0 * 100 * number + 0.9996, text) for number, text in enumerate(HOSTILE)]
VTT_TIME, SRT_TIME = re.compile(r"(\d{2,}):(\d\d):(\d\d)\.(\d{3})"), re.compile(r"(\d{2,}):(\d\d):(\d\d),(\d{3})")


def seconds(text: str, pattern: re.Pattern[str]) -> float:
    match = pattern.fullmatch(text)
    assert match, text
    hours, minutes, whole, rest = map(int, match.groups())
    return 3600 * hours + 60 * minutes + whole + rest / 1000


def test_vtt_is_what_a_parser_reads():
    text = to_vtt(SEGMENTS, ["cut off --> here\n\nand more"])
    assert text.encode()
    assert "\x00" not in text
    assert "\r" not in text
    head, note, *cues = text.rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    assert note.startswith("NOTE ")
    assert "-->" not in note
    assert len(cues) == len(SEGMENTS)
    for cue, segment in zip(cues, SEGMENTS, strict=True):
        timing, *payload = cue.split("\n")
        start, end = (seconds(part, VTT_TIME) for part in timing.split(" --> "))
        assert start == pytest.approx(segment.start, abs=1e-3)
        assert end == pytest.approx(segment.end, abs=1e-3)
        assert end > start
        assert payload
        assert all(line.strip() for line in payload)
        body = "\n".join(payload)
        assert "-->" not in body
        assert "<" not in body
        assert not re.search(r"&(?!amp;|lt;|gt;)", body)
        wanted = " ".join(segment.text.split())
        if segment.text.strip() and "\x00" not in segment.text:
            assert " ".join(html.unescape(body).split()) == wanted


def test_srt_is_numbered_and_holds_no_markup():
    blocks = to_srt(SEGMENTS).rstrip("\n").split("\n\n")
    assert len(blocks) == len(SEGMENTS)
    for number, block in enumerate(blocks, 1):
        first, timing, *payload = block.split("\n")
        assert first == str(number)
        assert len([seconds(part, SRT_TIME) for part in timing.split(" --> ")]) == 2
        body = "\n".join(payload)
        assert body.strip()
        assert "-->" not in body
        assert not re.search(r"<[A-Za-z/]|{\\", body)


def test_a_folder_of_subtitles_is_beside_a_file_with_a_row_a_video(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    alone = [str(tmp_path / "a.mp4")]
    assert is_one(alone, None, None)
    assert is_one(alone, Path("a.srt"), None)
    assert not is_one(alone, None, None, tmp_path / "subtitles")


def test_a_folder_of_frames_is_one_video(tmp_path: Path):
    with pytest.raises(PllavaError, match="of one video"):
        is_one([str(tmp_path)], Path("a.vtt"), None)
    (tmp_path / "00001.jpg").touch()
    assert is_one([str(tmp_path)], Path("a.vtt"), None)


def test_a_cue_lasts_at_least_a_millisecond():
    assert "00:00:01.000 --> 00:00:01.001" in to_vtt([Segment(1.0, 1.0, "a")])


def test_files(tmp_path: Path):
    entry = {"segments": [{"start": 0.0, "end": 1.0, "text": "é", "start_frame": 0, "end_frame": 9}], "notes": []}
    for name in ("a.vtt", "b.srt", "c.json", "D.VTT"):
        write_captions(tmp_path / name, entry)
    assert (tmp_path / "a.vtt").read_bytes() == (tmp_path / "D.VTT").read_bytes() == to_vtt([Segment(0, 1, "é")]).encode()
    assert json.loads((tmp_path / "c.json").read_text()) == entry
    with pytest.raises(PllavaError, match="no format for dense captions"):
        write_captions(tmp_path / "a.txt", entry)
