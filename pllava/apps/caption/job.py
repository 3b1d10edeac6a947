"""The question about every video and its settings, as plain values that can be sent to other processes and machines."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pllava.chat.caption.clips import QUESTION
from pllava.chat.caption.scenes import SceneSettings
from pllava.core.params import Params
from pllava.video.limits import Limits
from pllava.video.readers import TIME_LIMIT

if TYPE_CHECKING:
    from pllava.chat import VideoChat
    from pllava.chat.caption.dense import DenseCaption

_loading = threading.Lock()  # threads that need the model at the same time load it once


class Dense(BaseModel):
    """How a video is cut into scenes, one caption each; see `SceneSettings`."""

    model_config = ConfigDict(extra="forbid")
    detect: bool = Field(True, description="cuts by PySceneDetect; false: windows of max_seconds")
    threshold: float = Field(SceneSettings.threshold, gt=0, description="least change that is a cut; lower finds more")
    min_seconds: float = Field(SceneSettings.min_seconds, ge=0, description="a shorter scene is joined to its neighbour")
    max_seconds: float = Field(SceneSettings.max_seconds, gt=0, description="a longer scene is split")
    summary: bool = Field(False, description="ask about the whole video, too")

    def scenes(self) -> SceneSettings:
        return SceneSettings(**self.model_dump(exclude={"summary"}))


class Job(BaseModel):
    """source: the fields of a ModelRef. readers: number of processes that decode ahead. time_limit: seconds to read a clip."""

    model_config = ConfigDict(extra="forbid")
    source: dict[str, Any]
    question: str = QUESTION
    max_new_tokens: int = Field(100, ge=1)
    lora_alpha: float | None = None
    dense: Dense | None = None
    batch_size: int = Field(8, ge=1)
    readers: int = Field(2, ge=1)
    time_limit: float = Field(TIME_LIMIT, gt=0)
    limits: dict[str, float] = Field(default_factory=dict)

    def sha256(self) -> str:
        """A hash of all settings that captions depend on, and of the model's files."""
        values = self.model_dump(exclude={"readers", "time_limit"}) | {"weights": _weights(self.source)}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

    def chat(self) -> VideoChat:
        """The model, loaded once a process."""
        with _loading:
            return _chat(json.dumps(self.source, sort_keys=True), self.lora_alpha)

    def dense_caption(self, chat: VideoChat, path: str) -> DenseCaption:
        """The scenes of a video with their captions, for a job with `dense`. Raises PllavaError when the video cannot be read."""
        from pllava.chat.caption.dense import dense_caption

        assert self.dense is not None
        return dense_caption(
            chat,
            path,
            self.question,
            scenes=self.dense.scenes(),
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            summary=self.dense.summary,
            limits=self.bounds(),
            time_limit=self.time_limit,
        )

    def bounds(self) -> Limits:
        """The limits on a clip, as the readers take them."""
        return Limits(**self.limits)  # type: ignore[arg-type]


def make_job(
    params: Params, model: str | None = None, adapter: str | None = None, template: str | None = None, **settings: Any
) -> tuple[Job, str]:
    """(job, name of its model and why this model was chosen).

    Raises PllavaError when there is no such model, the question is empty or holds a marker of the template, or a limit is unknown.
    """
    from pllava.chat.caption.limits import parse_limits
    from pllava.chat.template import load_template
    from pllava.core.errors import PllavaError
    from pllava.registry.default_model import choose

    source = choose(params, model, adapter, template)
    job = Job(source=json.loads(json.dumps(asdict(source))), **settings)
    if not job.question.strip():
        raise PllavaError("the question is empty; leave --question out for a plain description")
    load_template(source.template).check(job.question)
    if job.dense:
        job.dense.scenes()
    parse_limits(f"{name}={value}" for name, value in job.limits.items())
    return job, f"{source.name}, {source.why}"


@lru_cache(maxsize=1)
def _chat(source: str, lora_alpha: float | None) -> VideoChat:
    from pllava.chat.model_ref import ModelRef

    return ModelRef(**json.loads(source)).load(lora_alpha)


def _weights(source: dict[str, Any]) -> list[list[object]]:
    """[name, size, time of change] of each file in the folders of base and adapter; none for a base or adapter that is no folder."""
    folders = [Path(name) for name in (source["base"], source["adapter"]) if name and Path(name).is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
