"""Decoding and preprocessing of a media file for the vision tower: `Pixels(processor, num_frames, sampling, seed).get(row, epoch)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pllava.artifacts.manifest import ManifestRow
from pllava.core.errors import PllavaError
from pllava.video.child import NoReader
from pllava.video.readers import ReaderDied, Readers

if TYPE_CHECKING:
    from torch import Tensor


class UnreadableClip(PllavaError):
    """A clip that `prepare` could read and that cannot be read now."""


class Pixels:
    """Frames of clips, preprocessed for the vision tower. The sampling `rand` draws other frames in each epoch."""

    is_features = False

    def __init__(self, processor: Any, num_frames: int, sampling: str, seed: int) -> None:
        self.processor, self.num_frames, self.sampling, self.seed = processor, num_frames, sampling, seed
        self._given_up: dict[str, str] = {}  # {media: error} of clips that hung or killed a reader; they are not read again

    def get(self, row: ManifestRow, epoch: int) -> Tensor:
        """Frames [T, 3, H, W] of a row's clip. Raises UnreadableClip."""
        if row.media in self._given_up:
            raise UnreadableClip(self._given_up[row.media])
        readers = Readers(1, picture=self.processor.picture)
        seed = f"frames:{self.seed}:{epoch}:{row.id}"
        try:
            frames = readers.read(row.media, self.num_frames, self.sampling, row.start, row.end, seed=seed).frames
        except NoReader:  # no reader process can be started; the clip may be fine
            raise
        except PllavaError as error:
            if isinstance(error, ReaderDied):
                self._given_up[row.media] = str(error)
            raise UnreadableClip(str(error)) from error
        return self.processor.preprocess_video(frames)
