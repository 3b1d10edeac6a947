"""Reads clips for another process: `python -m pllava.video.worker`, started by `pllava.video.readers`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

# Imported before the first job, which has a time limit.
import av  # noqa: F401
import decord  # noqa: F401
import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.child import Say, cap_memory, serve
from pllava.video.limits import Limits
from pllava.video.reader import probe, read_video
from pllava.video.stream import FrameStream

Answer = tuple[dict[str, Any], np.ndarray | None]


def frames(limits: Limits, seed: str | None, picture: list[int] | None, send: bool, **arguments: Any) -> Answer:
    """The decoded clip: the fields of VideoFrames, and the frames unless send=False. picture: as in `Readers`, for the tower's pictures."""
    video = read_video(limits=limits, rng=None if seed is None else random.Random(seed), **arguments)
    fields = {name: getattr(video, name) for name in ("indices", "fps", "num_frames_total", "duration", "reader", "why")}
    message = {"video": {"times": video.times.tolist(), **fields}}
    if not send:
        return message, None
    if picture:
        side, width, height = picture
        return message, tower_pictures([video.frames], side, (width, height))[0]
    return message, video.frames


def info(limits: Limits, path: str) -> Answer:
    """The fields of VideoInfo."""
    return {"info": asdict(probe(path, limits))}, None


def header(limits: Limits, path: str) -> Answer:
    """The fields of the Header of a video; null for pictures and a folder of frames."""
    header = FrameStream(path, limits).header
    return {"header": header and asdict(header)}, None


JOBS: dict[str, Callable[..., Answer]] = {"frames": frames, "info": info, "header": header}


def answer(job: dict[str, Any], say: Say) -> None:
    """Do a job and send its result. Every error becomes a message."""
    limits = Limits(**job.pop("limits"))
    cap_memory(limits.max_memory)
    try:
        message, data = JOBS[job.pop("job")](limits, **job)
    except PllavaError as error:
        say({"end": True, "error": str(error)})
    except MemoryError:
        say({"end": True, "error": f"{job['path']}: reading it takes more than {limits.max_memory:,} bytes, Limits(max_memory=...)"})
    except Exception as error:  # a decoder's bug on one clip must not end the worker
        say({"end": True, "error": f"{job['path']}: not readable ({type(error).__name__}: {error})"})
    else:
        say({"end": True, **message}, data)


if __name__ == "__main__":
    serve(answer)
