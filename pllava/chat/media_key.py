"""What a video is, whatever its name: a hash of its bytes."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.hashing import sha256_file

if TYPE_CHECKING:
    from pllava.video.frames import VideoFrames

SETTLED = 2.0  # seconds; a file that was written later than that may change again without its time changing
_known: dict[tuple[int, ...], str] = {}  # identity, size and times of a file -> hash
_lock = threading.Lock()
MOST_KNOWN = 10_000


def path_key(path: Path) -> str:
    """Hash of a file's content, or of the names and contents in a folder of frames. An unchanged file is read once a process."""
    if path.is_dir():
        lines = [f"{file.name} {path_key(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return "folder " + hashlib.sha256("\n".join(lines).encode()).hexdigest()
    found = path.stat()
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    with _lock:
        if identity in _known:
            return _known[identity]
    key = sha256_file(path)
    if time.time() - found.st_ctime > SETTLED:
        with _lock:
            if len(_known) >= MOST_KNOWN:
                _known.clear()
            _known[identity] = key
    return key


def frames_key(video: VideoFrames) -> str:
    """Hash of sampled frames with their times: equal pixels may stand at other places of a clip."""
    facts = (video.frames.shape, video.times.tolist(), video.indices, video.fps, video.num_frames_total, video.duration, video.reader)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(video.frames.tobytes())
    return "frames " + digest.hexdigest()
