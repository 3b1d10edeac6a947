"""One long video to one file of subtitles, or to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pllava.apps.caption.inputs import is_clip
from pllava.apps.caption.job import Job
from pllava.chat.caption.subtitles import FORMATS, format_of, to_srt, to_vtt, write_captions
from pllava.core.errors import PllavaError


def is_one(sources: Sequence[str], out: Path | None, format: str | None, subtitles: Path | None = None) -> bool:
    """Whether the user asks for subtitles of one video, and not for a file with a row a video.

    Raises PllavaError when the format is one of subtitles and there are several videos.
    """
    if subtitles:
        return False
    wanted = format in FORMATS or (format is None and out is not None and out.suffix.removeprefix(".").lower() in FORMATS)
    alone = len(sources) == 1 and (Path(sources[0]).is_file() or is_clip(Path(sources[0])))
    if wanted and not alone:
        raise PllavaError("subtitles are of one video; for many add --subtitles FOLDER, and let --out end in .jsonl, .parquet or .csv")
    return wanted or (alone and out is None and format is None)


def caption_one(path: str, out: Path | None, format: str | None, job: Job, say: Callable[[object], None]) -> None:
    """Caption one video into `out`, or print the captions. Parts that cannot be decoded are logged.

    Raises PllavaError when the video cannot be read or `out` cannot be written.
    """
    from rich.console import Console

    from pllava.apps.caption.output import printable, require_writable
    from pllava.chat.caption.segment import Segment
    from pllava.core.progress import WorkProgress
    from pllava.video.reader import kind_of_path

    kind = format or (format_of(out) if out else "vtt")
    kind_of_path(Path(path))  # raises before the weights are read
    if out:
        require_writable(out)
    dense = job.dense_caption(job.chat(), path)
    with WorkProgress("captions", "videos", 1, Console(stderr=True)) as progress:
        entry = dense.entry(printable(path), lambda position: progress.within(path, position))
    if entry["summary"]:
        say(f"summary: {entry['summary']}")
    say(f"{len(entry['segments'])} captions of {dense.duration:.2f} s, {dense.num_frames} frames" + (f": {out}" if out else ""))
    if out:
        write_captions(out, entry, kind)
        return
    segments = [Segment(**segment) for segment in entry["segments"]]

    texts = {"vtt": lambda: to_vtt(segments, entry["notes"]), "srt": lambda: to_srt(segments), "json": lambda: json.dumps(entry) + "\n"}
    sys.stdout.write(texts[kind]())
