"""From a media file to what the tower sees: `Pixels(processor, num_frames, sampling, seed).get(row, epoch)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pllava.artifacts.manifest import ManifestRow
from pllava.core.errors import PllavaError
from pllava.video.child import NoReader
from pllava.video.readers import ReaderDied, Readers

if TYPE_CHECKING:
    from torch import Tensor


class UnreadableClip(PllavaError):
    """A clip that was fine when the data was prepared, and is not now."""


class Pixels:
    """Decode the clip and make it ready for the tower: [T, 3, H, W]; `rand` draws other frames every epoch."""

    is_features = False

    def __init__(self, processor: Any, num_frames: int, sampling: str, seed: int) -> None:
        self.processor, self.num_frames, self.sampling, self.seed = processor, num_frames, sampling, seed
        self._given_up: dict[str, str] = {}  # clips that hung or killed a reader: not waited for again

    def get(self, row: ManifestRow, epoch: int) -> Tensor:
        if row.media in self._given_up:
            raise UnreadableClip(self._given_up[row.media])
        readers = Readers(1, picture=self.processor.picture)
        seed = f"frames:{self.seed}:{epoch}:{row.id}"
        try:
            frames = readers.read(row.media, self.num_frames, self.sampling, row.start, row.end, seed=seed).frames
        except NoReader:  # no clip's fault
            raise
        except PllavaError as error:
            if isinstance(error, ReaderDied):
                self._given_up[row.media] = str(error)
            raise UnreadableClip(str(error)) from error
        return self.processor.preprocess_video(frames)
