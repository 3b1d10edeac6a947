"""The caption button of the page: captions of a whole clip, as text with times, and as files for a player."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pllava.apps.demo.engine import ChatEngine, Settings
from pllava.apps.web.uploads import Uploads

FORMATS = ("vtt", "srt", "json")
MORE, STOPPED = "More to come …", "Stopped."


@dataclass(frozen=True)
class Captions:
    """The captions so far. listed: HTML; files: one path for each of FORMATS, when all captions are done."""

    listed: str
    files: tuple[str, ...] = ()


def caption_clip(engine: ChatEngine, uploads: Uploads, session: str, path: str, settings: Settings) -> Iterator[Captions]:
    """Caption a clip scene by scene; yields the captions so far. The visitor holds the files at the end.

    Closing the iterator stops the model. Raises PllavaError when the clip cannot be captioned.
    """
    from pllava.chat.caption.dense import dense_caption
    from pllava.chat.caption.subtitles import write_captions

    name = Path(path).stem
    segments: list[dict[str, Any]] = []
    yield Captions(_panel([], MORE))
    with engine.use(replace(settings, num_frames=None)) as chat:  # each scene gets the model's own number of frames
        credit = engine.credit(settings)
        dense = dense_caption(chat, path, max_new_tokens=settings.max_new_tokens, limits=engine.limits)
        for segment in dense:
            segments.append(asdict(segment))
            yield Captions(_panel(segments, f"{MORE}{_by(credit)}"))
    entry = {
        "video": Path(path).name,
        "duration": round(dense.duration, 6),
        "num_frames": dense.num_frames,
        "segments": [{**segment, "start": round(segment["start"], 6), "end": round(segment["end"], 6)} for segment in segments],
        "summary": dense.summary,
        "notes": [*dense.notes, *([f"captions by {credit}"] if credit else [])],
    }
    folder = Path(tempfile.mkdtemp(dir=uploads.root, prefix="captions-"))
    files = []
    for kind in FORMATS:
        file = folder / f"{name}.{kind}"
        write_captions(file, entry, kind)
        uploads.add(session, file)
        files.append(str(file))
    note = "; ".join(dense.notes) or f"{len(segments)} scene{'' if len(segments) == 1 else 's'}. The player shows them as subtitles."
    yield Captions(_panel(segments, note + _by(credit)), tuple(files))


def _by(credit: str) -> str:
    return f" By {credit}." if credit else ""


def _panel(segments: Sequence[dict[str, Any]], note: str) -> str:
    rows = "".join(
        f'<li><button type="button" data-seconds="{segment["start"]:.3f}" title="Show in the player">'
        f"{_clock(segment['start'])}–{_clock(segment['end'])}</button> {html.escape(segment['text']) or '…'}</li>"
        for segment in segments
    )
    return f'<ol class="captions" aria-label="Captions">{rows}</ol><p class="facts" role="status">{html.escape(note)}</p>'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"
