"""Scenes of a video with a few frames of each, in one pass and constant memory: `for scene in Scenes(stream, settings, 16): ...`

PySceneDetect's adaptive detector finds the cuts. A scene keeps at most four times the frames that the model takes: every k-th, and
when there are too many every second one of them is dropped, so that at its end those nearest to the evaluation's rule are at hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pllava.core.errors import PllavaError
from pllava.video.sampling import eval_indices
from pllava.video.stream import StreamFrame

RATE = 25.0  # frames a second; the detector wants one to count frames, our times come from the file
DETECTION_SIDE = 256  # pixels of the longer side that the detector sees; PySceneDetect's own choice of scale

Picture = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> what is kept of it


@dataclass(frozen=True)
class SceneSettings:
    """Where one caption ends and the next begins."""

    detect: bool = True  # cuts by PySceneDetect; False: windows of max_seconds
    threshold: float = 8.0  # least change of hue, saturation and brightness (0..255) that is a cut: PySceneDetect's min_content_val
    ratio: float = 3.0  # how far it must stand out from the frames around it: PySceneDetect's adaptive_threshold
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
    """start, end: seconds. Frames are numbered through the file; `end_frame` is the first that does not belong to it."""

    start: float
    end: float
    start_frame: int
    end_frame: int
    frames: np.ndarray  # uint8 [T, H, W, 3]
    times: list[float]  # seconds, of `frames`
    indices: list[int]


@dataclass
class Kept:
    """Frames spread evenly over all that were offered, however many those are."""

    capacity: int
    picture: Picture
    stride: int = 1
    first: int | None = None
    entries: list[tuple[int, float, np.ndarray]] = field(default_factory=list)  # number, time, picture

    def offer(self, frame: StreamFrame) -> None:
        if self.first is None:
            self.first = frame.number
        if (frame.number - self.first) % self.stride:
            return
        self.entries.append((frame.number, frame.time, frame.made_into(self.picture)))
        if len(self.entries) > self.capacity:
            self.stride *= 2
            self.entries = [entry for entry in self.entries if (entry[0] - self.first) % self.stride == 0]

    def nearest(self, num_frames: int, first: int, end: int) -> list[tuple[int, float, np.ndarray]]:
        """Those nearest to the middles of `num_frames` equal parts of the frames first..end-1."""
        numbers = np.asarray([number for number, _, _ in self.entries])
        wanted = [first + index for index in eval_indices(num_frames, end - first, 1.0)]
        return [self.entries[int(np.abs(numbers - index).argmin())] for index in wanted]


@dataclass
class _Open:
    """A scene whose end is not known, or that may still be joined to the next."""

    start: float
    start_frame: int
    kept: Kept
    end: float = 0.0
    end_frame: int = 0

    def take(self, frame: StreamFrame) -> None:
        self.kept.offer(frame)
        self.end, self.end_frame = frame.end, frame.number + 1

    def take_over(self, other: _Open) -> None:
        self.kept.entries += other.kept.entries
        self.end, self.end_frame = other.end, other.end_frame


class Scenes:
    """Iterate once. `overview`, then, is a scene of the whole file; its pictures are kept as `picture` makes them."""

    def __init__(
        self, stream: Iterable[StreamFrame], settings: SceneSettings, num_frames: int, picture: Picture = lambda image: image
    ) -> None:
        self.stream, self.settings, self.num_frames, self.picture = stream, settings, num_frames, picture
        self.overview: Scene | None = None

    def __iter__(self) -> Iterator[Scene]:
        least, most = self.settings.min_seconds, self.settings.max_seconds
        whole: _Open | None = None
        current: _Open | None = None
        before: _Open | None = None  # held back: the last scene may turn out too short, and is then joined to this one
        for frame, is_cut in _with_cuts(self.stream, self.settings):
            whole = whole or self._begin(frame)
            if current is None:
                current = self._begin(frame)
            elif (is_cut and frame.time - current.start >= least) or frame.end - current.start > most + 1e-6:
                if before:
                    yield self._scene(before)
                current.end = frame.time  # without a gap, also where a frame was shown shorter than its file says
                before, current = current, self._begin(frame)
            for scene in (whole, current):
                scene.take(frame)
        if whole is None or current is None:
            return  # the stream has raised
        if before and current.end - current.start < least:
            before.take_over(current)
            yield self._scene(before)
        else:
            yield from (self._scene(scene) for scene in (before, current) if scene)
        self.overview = self._scene(whole)

    def _begin(self, frame: StreamFrame) -> _Open:
        return _Open(frame.time, frame.number, Kept(4 * self.num_frames, self.picture))

    def _scene(self, scene: _Open) -> Scene:
        entries = scene.kept.nearest(self.num_frames, scene.start_frame, scene.end_frame)
        indices, times, pictures = zip(*entries, strict=True)
        return Scene(scene.start, scene.end, scene.start_frame, scene.end_frame, np.stack(pictures), list(times), list(indices))


def _with_cuts(stream: Iterable[StreamFrame], settings: SceneSettings) -> Iterator[tuple[StreamFrame, bool]]:
    """Each frame, and whether a scene begins with it. The detector looks a few frames ahead, so they are held back."""
    if not settings.detect:
        yield from ((frame, False) for frame in stream)
        return
    from scenedetect import AdaptiveDetector, FrameTimecode

    # Short scenes are our own matter: the detector's rule for them would move cuts.
    detector = AdaptiveDetector(settings.ratio, min_scene_len=0, min_content_val=settings.threshold)
    waiting: deque[StreamFrame] = deque()
    cuts: set[int] = set()
    for frame in stream:
        found = detector.process_frame(FrameTimecode(frame.number, RATE), frame.small(DETECTION_SIDE))
        cuts.update(cut.frame_num for cut in found)
        waiting.append(frame)
        if len(waiting) > detector.window_width:
            yield (first := waiting.popleft()), first.number in cuts
            cuts.discard(first.number)
    yield from ((frame, frame.number in cuts) for frame in waiting)
