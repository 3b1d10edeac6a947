"""Reads clips for another process: `python -m pllava.video.worker`, started by `pllava.video.readers`."""

from __future__ import annotations

from typing import Any

# Imported before the first job, which has a time limit.
import av  # noqa: F401
import decord  # noqa: F401

from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.child import Say, serve
from pllava.video.limits import Limits
from pllava.video.reader import read_video


def answer(job: dict[str, Any], say: Say) -> None:
    picture = job.pop("picture")
    try:
        video = read_video(limits=Limits(**job.pop("limits")), **job)
        frames = video.frames
        if picture:
            resolution, width, height = picture
            frames = tower_pictures([frames], resolution, (width, height))[0]
    except PllavaError as error:
        say({"end": True, "error": str(error)})
        return
    except Exception as error:  # a decoder's bug must not end the others' work
        say({"end": True, "error": f"{job['path']}: not readable ({type(error).__name__}: {error})"})
        return
    rest = {name: getattr(video, name) for name in ("indices", "fps", "num_frames_total", "duration", "reader")}
    say({"end": True, "video": {"times": video.times.tolist(), **rest}}, frames)


if __name__ == "__main__":
    serve(answer)
