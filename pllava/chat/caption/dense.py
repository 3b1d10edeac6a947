"""Captions all along a video: `for segment in pllava.dense_caption(chat, "long.mp4"): ...`

Another process decodes the file once and finds the scenes. A scene is captioned from its own frames as soon as its end is known.
Memory does not grow with the length of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pllava.chat.caption.clips import QUESTION, caption_clips, without_cache
from pllava.chat.caption.scan import Scan
from pllava.chat.caption.scenes import Scene, SceneSettings
from pllava.chat.caption.segment import Segment
from pllava.core.errors import PllavaError
from pllava.video.frames import VideoFrames
from pllava.video.limits import Limits
from pllava.video.readers import TIME_LIMIT

if TYPE_CHECKING:
    from pllava.chat import VideoChat

log = logging.getLogger(__name__)
ROUNDED = 6  # decimals of a second


class DenseCaption:
    """Iterate once over Segments. Afterwards `summary`, `notes` (what is unreadable or unfamiliar), `duration` and `num_frames` are set."""

    def __init__(
        self, chat: VideoChat, scan: Scan, question: str, max_new_tokens: int, batch_size: int, summary_question: str | None
    ) -> None:
        self.chat, self.scan, self.question, self.max_new_tokens = chat, scan, question, max_new_tokens
        self.batch_size, self.summary_question = batch_size, summary_question
        self.summary: str | None = None
        self.scenes = self.far_scenes = 0

    def __iter__(self) -> Iterator[Segment]:
        batch: list[Scene] = []
        for scene in self.scan:
            batch.append(scene)
            if len(batch) == self.batch_size:
                yield from self._captioned(batch)
                batch = []
        yield from self._captioned(batch)
        for note in self.notes:
            log.warning("%s: %s", self.scan.path, note)
        if self.summary_question and self.scan.overview:
            self.summary = caption_clips(self.chat, [self._clip(self.scan.overview)], self.summary_question, self.max_new_tokens)[0].text

    @property
    def notes(self) -> list[str]:
        scenes = f"{self.far_scenes} of {self.scenes} scenes are" if self.scenes > 1 else "this video is"
        far = f"{scenes} unlike the clips this model was trained on; the captions are likely wrong"
        return [*self.scan.notes, *([far] if self.far_scenes else [])]

    @property
    def duration(self) -> float:
        """Seconds that were read."""
        return self.scan.duration

    @property
    def num_frames(self) -> int:
        return self.scan.num_frames

    def entry(self, video: str, tell: Callable[[float], None] = lambda position: None) -> dict[str, Any]:
        """Iterate over all segments and return them as JSON data. tell: called with the end of each segment, in seconds."""
        segments = []
        for segment in self:
            segments.append({**asdict(segment), "start": round(segment.start, ROUNDED), "end": round(segment.end, ROUNDED)})
            tell(segment.end)
        return {
            "video": video,
            "duration": round(self.duration, ROUNDED),
            "num_frames": self.num_frames,
            "segments": segments,
            "summary": self.summary,
            "notes": self.notes,
        }

    def _captioned(self, scenes: list[Scene]) -> Iterator[Segment]:
        answers = caption_clips(self.chat, [self._clip(scene) for scene in scenes], self.question, self.max_new_tokens) if scenes else []
        for scene, answer in zip(scenes, answers, strict=True):
            self.scenes += 1
            self.far_scenes += answer.distance is not None and answer.distance.far
            yield Segment(scene.start, scene.end, answer.text, scene.start_frame, scene.end_frame)

    @staticmethod
    def _clip(scene: Scene) -> VideoFrames:
        count, seconds = scene.end_frame - scene.start_frame, scene.end - scene.start
        return VideoFrames(scene.frames, np.asarray(scene.times), scene.indices, count / max(seconds, 1e-3), count, seconds, "pyav")


def dense_caption(
    chat: VideoChat,
    path: str | Path,
    question: str = QUESTION,
    *,
    scenes: SceneSettings | None = None,
    max_new_tokens: int = 100,
    batch_size: int = 4,
    summary: bool | str = False,
    limits: Limits | None = None,
    time_limit: float = TIME_LIMIT,
) -> DenseCaption:
    """Caption a video of any length, scene by scene.

    question: asked about each scene. scenes: where captions begin and end. batch_size: scenes captioned at once. summary: True asks
    `question` again at the end, about frames of the whole file; a text replaces `question` there. time_limit: seconds without a frame,
    after which reading ends. Raises PllavaError at once when nothing is readable. Of a damaged file the readable part is captioned,
    and `notes` name the damage.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise PllavaError(f"batch_size {batch_size}, max_new_tokens {max_new_tokens}: both must be at least 1")
    summary_question = summary if isinstance(summary, str) else question if summary else None
    for text in (question, summary_question):
        chat.template.prompt_for(text or "?")  # refuses markers before anything is decoded
    picture = chat.processor.picture
    scan = Scan(path, scenes, chat.processor.num_frames, picture, limits, time_limit)
    return DenseCaption(without_cache(chat), scan, question, max_new_tokens, batch_size, summary_question)
