"""Reads clips for another process: `python -m pllava.video.worker`, started by `pllava.video.readers`.

A line of JSON on stdin is a job. The answer on stdout is a line of JSON, and after it, where that has a "shape", the frames' bytes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, BinaryIO

from pllava.errors import PllavaError


def answer(job: dict[str, Any], out: BinaryIO) -> None:
    import numpy as np

    from pllava.video.aspect import tower_pictures
    from pllava.video.limits import Limits
    from pllava.video.reader import read_video

    picture = job.pop("picture")
    try:
        video = read_video(limits=Limits(**job.pop("limits")), **job)
        frames = video.frames
        if picture:
            resolution, width, height = picture
            frames = tower_pictures([frames], resolution, (width, height))[0]
    except PllavaError as error:
        _say(out, {"error": str(error)})
        return
    except Exception as error:  # a decoder's bug must not end the others' work
        _say(out, {"error": f"{job['path']}: not readable ({type(error).__name__}: {error})"})
        return
    rest = {name: getattr(video, name) for name in ("indices", "fps", "num_frames_total", "duration", "reader")}
    _say(out, {"shape": frames.shape, "times": video.times.tolist(), **rest})
    out.write(np.ascontiguousarray(frames).data)
    out.flush()


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not land among the frames
    jobs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    import av  # noqa: F401  slow imports are not on the clock of the first job
    import decord  # noqa: F401

    import pllava.video.reader  # noqa: F401

    _say(out, {"ready": True})
    while True:
        answer(json.loads(jobs.get()), out)


def _listen(jobs: queue.Queue[bytes]) -> None:
    """Until the other process has gone, even when a decoder hangs."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


def _say(out: BinaryIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
