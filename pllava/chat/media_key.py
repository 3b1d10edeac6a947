"""Cache keys of videos: hashes of the content, independent of the name."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.hashing import sha256_file

if TYPE_CHECKING:
    from pllava.video.frames import VideoFrames

SETTLED = 2.0  # seconds; a younger file may change again without a change of its recorded time
_known: dict[tuple[int, ...], str] = {}  # identity, size and times of a file -> hash
_lock = threading.Lock()
MOST_KNOWN = 10_000


def path_key(path: Path) -> str:
    """Hash of a file's content, or of the names and contents in a folder of frames. A process reads an unchanged file once."""
    if path.is_dir():
        lines = [f"{file.name} {path_key(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return "folder " + hashlib.sha256("\n".join(lines).encode()).hexdigest()
    stat = path.stat()
    identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    with _lock:
        if identity in _known:
            return _known[identity]
    key = sha256_file(path)
    if time.time() - stat.st_ctime > SETTLED:
        with _lock:
            if len(_known) >= MOST_KNOWN:
                _known.clear()
            _known[identity] = key
    return key


def frames_key(video: VideoFrames) -> str:
    """Hash of sampled frames and their times. Equal pixels at different times get different keys."""
    facts = (video.frames.shape, video.times.tolist(), video.indices, video.fps, video.num_frames_total, video.duration, video.reader)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(video.frames.tobytes())
    return "frames " + digest.hexdigest()
