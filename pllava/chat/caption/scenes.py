"""Scenes of a video with a few frames of each, in one pass and constant memory: `for scene in Scenes(stream, settings, 16): ...`

PySceneDetect's adaptive detector finds the cuts. A scene keeps every k-th frame, at most four times as many as the model takes. When
there are more, every second kept frame is dropped and k doubles. At the scene's end, the kept frames nearest to the evaluation's frame
rule are chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.sampling import eval_indices
from pllava.video.stream import StreamFrame

RATE = 25.0  # frames a second, for the detector to count frames with; times of scenes come from the file
DETECTION_SIDE = 256  # pixels of the longer side that the detector sees; PySceneDetect's own choice of scale

Picture = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> the uint8 [h, w, 3] to keep


@dataclass(frozen=True)
class SceneSettings:
    """Where one caption ends and the next begins."""

    detect: bool = True  # cuts by PySceneDetect; False: windows of max_seconds
    threshold: float = 8.0  # least change of hue, saturation and brightness (0..255) that is a cut: PySceneDetect's min_content_val
    ratio: float = 3.0  # least change relative to the frames around a cut: PySceneDetect's adaptive_threshold
    min_seconds: float = 1.0  # a shorter scene is joined to its neighbour
    max_seconds: float = 30.0  # a longer scene is split

    def __post_init__(self) -> None:
        if not (0 <= self.min_seconds < self.max_seconds and self.threshold > 0 and self.ratio > 0):
            raise PllavaError(
                f"scenes of {self.min_seconds} to {self.max_seconds} s, threshold {self.threshold}, ratio {self.ratio}: "
                "need 0 <= min_seconds < max_seconds, and the others above 0"
            )


@dataclass(frozen=True)
class Scene:
    """start, end: seconds. Frame numbers count from the start of the file; `end_frame` is the first frame behind the scene."""

    start: float
    end: float
    start_frame: int
    end_frame: int
    frames: np.ndarray  # uint8 [T, H, W, 3]
    times: list[float]  # seconds, of `frames`
    indices: list[int]


@dataclass
class Kept:
    """At most `capacity` frames, spread evenly over all offered frames."""

    capacity: int
    picture: Picture
    stride: int = 1
    first: int | None = None
    entries: list[tuple[int, float, np.ndarray]] = field(default_factory=list)  # number, time, picture

    def offer(self, frame: StreamFrame) -> None:
        """Keep the frame when its number is on the stride. Doubles the stride above the capacity."""
        if self.first is None:
            self.first = frame.number
        if (frame.number - self.first) % self.stride:
            return
        self.entries.append((frame.number, frame.time, frame.made_into(self.picture)))
        if len(self.entries) > self.capacity:
            self.stride *= 2
            self.entries = [entry for entry in self.entries if (entry[0] - self.first) % self.stride == 0]

    def nearest(self, num_frames: int, first: int, end: int) -> list[tuple[int, float, np.ndarray]]:
        """The kept entries nearest to the middles of `num_frames` equal parts of the frames first..end-1."""
        numbers = np.asarray([number for number, _, _ in self.entries])
        wanted = [first + index for index in eval_indices(num_frames, end - first, 1.0)]
        return [self.entries[int(np.abs(numbers - index).argmin())] for index in wanted]


@dataclass
class _OpenScene:
    """A scene without a known end, or one that may still be joined to the next scene."""

    start: float
    start_frame: int
    kept: Kept
    end: float = 0.0
    end_frame: int = 0

    def take(self, frame: StreamFrame) -> None:
        self.kept.offer(frame)
        self.end, self.end_frame = frame.end, frame.number + 1

    def join(self, following: _OpenScene) -> None:
        self.kept.entries += following.kept.entries
        self.end, self.end_frame = following.end, following.end_frame


class Scenes:
    """Iterate once over Scenes. Afterwards `overview` is a Scene of the whole file. picture: applied to every kept frame."""

    def __init__(
        self, stream: Iterable[StreamFrame], settings: SceneSettings, num_frames: int, picture: Picture = lambda image: image
    ) -> None:
        self.stream, self.settings, self.num_frames, self.picture = stream, settings, num_frames, picture
        self.overview: Scene | None = None

    def __iter__(self) -> Iterator[Scene]:
        least, most = self.settings.min_seconds, self.settings.max_seconds
        whole: _OpenScene | None = None
        current: _OpenScene | None = None
        before: _OpenScene | None = None  # not yielded yet: a last scene that is too short is joined to this one
        for frame, is_cut in _with_cuts(self.stream, self.settings):
            whole = whole or self._begin(frame)
            if current is None:
                current = self._begin(frame)
            elif (is_cut and frame.time - current.start >= least) or frame.end - current.start > most + 1e-6:
                if before:
                    yield self._scene(before)
                current.end = frame.time  # no gap between scenes, even where a frame was shown for less time than the file says
                before, current = current, self._begin(frame)
            for scene in (whole, current):
                scene.take(frame)
        if whole is None or current is None:
            return  # the stream has no frame
        if before and current.end - current.start < least:
            before.join(current)
            yield self._scene(before)
        else:
            yield from (self._scene(scene) for scene in (before, current) if scene)
        self.overview = self._scene(whole)

    def _begin(self, frame: StreamFrame) -> _OpenScene:
        return _OpenScene(frame.time, frame.number, Kept(4 * self.num_frames, self.picture))

    def _scene(self, scene: _OpenScene) -> Scene:
        entries = scene.kept.nearest(self.num_frames, scene.start_frame, scene.end_frame)
        indices, times, pictures = zip(*entries, strict=True)
        return Scene(scene.start, scene.end, scene.start_frame, scene.end_frame, np.stack(pictures), list(times), list(indices))


def _with_cuts(stream: Iterable[StreamFrame], settings: SceneSettings) -> Iterator[tuple[StreamFrame, bool]]:
    """Each frame, and whether a scene begins with the frame. Yields a few frames late, because the detector looks ahead."""
    if not settings.detect:
        yield from ((frame, False) for frame in stream)
        return
    from scenedetect import AdaptiveDetector, FrameTimecode

    # `Scenes` joins short scenes itself: the detector's own rule would move cuts.
    detector = AdaptiveDetector(settings.ratio, min_scene_len=0, min_content_val=settings.threshold)
    waiting: deque[StreamFrame] = deque()
    cuts: set[int] = set()
    for frame in stream:
        new_cuts = detector.process_frame(FrameTimecode(frame.number, RATE), frame.small(DETECTION_SIDE))
        cuts.update(cut.frame_num for cut in new_cuts)
        waiting.append(frame)
        if len(waiting) > detector.window_width:
            yield (first := waiting.popleft()), first.number in cuts
            cuts.discard(first.number)
    yield from ((frame, frame.number in cuts) for frame in waiting)
