"""From a media file to what the tower sees: `Pixels(processor, num_frames, sampling, seed).get(row, epoch)`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pllava.artifacts.manifest import ManifestRow
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from torch import Tensor


class UnreadableClip(PllavaError):
    """A clip that was fine when the data was prepared, and is not now."""


class Pixels:
    """Decode the clip and make it ready for the tower: [T, 3, H, W]; `rand` draws other frames every epoch."""

    is_features = False

    def __init__(self, processor: Any, num_frames: int, sampling: str, seed: int) -> None:
        self.processor, self.num_frames, self.sampling, self.seed = processor, num_frames, sampling, seed

    def get(self, row: ManifestRow, epoch: int) -> Tensor:
        from pllava.video.reader import read_video

        rng = random.Random(f"frames:{self.seed}:{epoch}:{row.id}")
        try:
            frames = read_video(row.media, self.num_frames, self.sampling, row.start, row.end, rng=rng).frames
        except (PllavaError, OSError) as error:
            raise UnreadableClip(str(error)) from error
        return self.processor.preprocess_video(frames)
