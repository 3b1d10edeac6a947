"""Scenes of a video, found by another process ahead of the model: `for scene in Scan("long.mp4", settings, 16): ...`

The scanning process waits until the reader takes the scenes it has found, so memory stays constant. A scanning process that sends
no message within the time limit is killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pllava.chat.caption.scenes import Scene, Scenes, SceneSettings
from pllava.core.errors import PllavaError
from pllava.video.aspect import tower_pictures
from pllava.video.child import Child, Gone, Say, cap_memory, serve
from pllava.video.limits import Limits
from pllava.video.presentation import MEND
from pllava.video.readers import TIME_LIMIT, Readers
from pllava.video.stream import FrameStream, StreamFrame

SCANNER = "pllava.chat.caption.scan"
SIGN_OF_LIFE = 0.5  # seconds between two messages about the position


class Scan:
    """Iterate once over Scenes. Afterwards `overview` (a Scene of the whole file), `notes`, `num_frames` and `duration` are set.

    During the iteration `position` is the decoder's position in seconds. picture: as in `pllava.video.readers`. time_limit: seconds
    without a message. Raises PllavaError when nothing is readable. A fault in the middle ends the iteration and becomes a note.
    """

    def __init__(
        self,
        path: str | Path,
        settings: SceneSettings | None = None,
        num_frames: int = 16,
        picture: tuple[int, int, int] | None = None,
        limits: Limits | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.path, self.time_limit = Path(path), time_limit
        settings, limits = settings or SceneSettings(), limits or Limits()
        Readers(1, time_limit, limits).header(path)  # raises at once when the file is unreadable
        self._job = {
            "path": str(path),
            "settings": asdict(settings),
            "num_frames": num_frames,
            "picture": picture,
            "limits": asdict(limits),
        }
        self._child: Child | None = None
        self.overview: Scene | None = None
        self.notes: list[str] = []
        self.num_frames, self.duration, self.position = 0, 0.0, 0.0

    def begin(self) -> None:
        """Start to decode before the iteration."""
        self._child = self._child or Child.take(SCANNER)
        self._child.begin(self._job)

    def __iter__(self) -> Iterator[Scene]:
        self.begin()
        child, finished = self._child, False
        assert child is not None
        try:
            for message, frames in child.ask(self._job, self.time_limit):
                if "error" in message:
                    finished = True
                    raise PllavaError(message["error"])
                self.position = message.get("position", self.position)
                if frames is None:
                    continue
                if message.get("end"):
                    self.notes += message["notes"]
                    self.num_frames, self.duration = message["num_frames"], message["duration"]
                    self.overview = Scene(frames=frames, **message["scene"])
                    finished = True
                else:
                    scene = Scene(frames=frames, **message["scene"])
                    self.num_frames, self.duration = scene.end_frame, scene.end
                    yield scene
        except Gone as error:
            if not self.num_frames:
                raise PllavaError(f"{self.path}: {error}. {MEND}") from None
            self.notes.append(f"nothing after {self.duration:.2f} s: {error}")
        finally:
            if finished:
                child.give_back()
            else:
                child.end()


def answer(job: dict[str, Any], say: Say) -> None:
    """Scan the file of a job in the scanning process. Every error becomes the last message."""
    try:
        _scan(job, say)
    except PllavaError as error:
        say({"end": True, "error": str(error)})
    except Exception as error:  # a decoder's bug on one file must not end a batch of files
        say({"end": True, "error": f"{job['path']}: not readable ({type(error).__name__}: {error})"})


def _scan(job: dict[str, Any], say: Say) -> None:
    def picture(image: np.ndarray) -> np.ndarray:
        resolution, width, height = job["picture"]
        return tower_pictures([image[None]], resolution, (width, height))[0][0]

    limits = Limits(**job["limits"])
    cap_memory(limits.max_memory)
    stream = _ReportingStream(FrameStream(job["path"], limits), say)
    scenes = Scenes(stream, SceneSettings(**job["settings"]), job["num_frames"], picture if job["picture"] else lambda image: image)
    for scene in scenes:
        say({"scene": _without_frames(scene)}, scene.frames)
    assert scenes.overview is not None
    totals = {"notes": stream.stream.notes, "num_frames": stream.stream.num_frames, "duration": stream.stream.duration}
    say({"end": True, "scene": _without_frames(scenes.overview), **totals}, scenes.overview.frames)


class _ReportingStream:
    """The frames of a stream. Sends the position every `SIGN_OF_LIFE` seconds."""

    def __init__(self, stream: FrameStream, say: Say) -> None:
        self.stream, self.say = stream, say

    def __iter__(self) -> Iterator[StreamFrame]:
        last_message = time.monotonic()
        for frame in self.stream:
            if time.monotonic() - last_message > SIGN_OF_LIFE:
                self.say({"position": frame.time})
                last_message = time.monotonic()
            yield frame


def _without_frames(scene: Scene) -> dict[str, Any]:
    return {name: value for name, value in vars(scene).items() if name != "frames"}


if __name__ == "__main__":
    import av  # noqa: F401  before the first job, which has a time limit
    import scenedetect  # noqa: F401

    serve(answer)
