"""Whether storing features pays, decided before anything is encoded: `plan_features(params, train, validation)`.

`features.enabled: auto` stores features when all of this holds:
1. the frame choice is fixed (train.sampling middle): with random frames every epoch sees other frames;
2. training uses a clip at least twice on average: epochs count, and so do rows that share a clip;
3. the store takes at most four fifths of the free disk, DVC's copy in its cache included. Features that are already stored need no room.
The decision depends on params, manifests and the disk, never on a measurement, so a second run decides the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.artifacts.feature_store import STORE, clip_key
from pllava.artifacts.manifest import ManifestRow
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.core.params import Params

OTHER_FRAMES = "train.sampling rand takes other frames every epoch, so there is nothing to encode once"
LEAST_USES = 2.0  # uses of a clip; with fewer, writing and reading cost about as much as they save
SHARE_OF_FREE = 0.8
COPIES = 2  # one in the workspace, one in DVC's cache (unless DVC's cache.type is reflink, hardlink or symlink)
UNITS = ("B", "kB", "MB", "GB", "TB")
NUMBER_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class FeaturePlan:
    """What a feature store would hold, how often it would be used, and the room there is for it."""

    clips: int  # distinct
    uses: int  # clips the tower would encode without a store, in all training steps and validations
    bytes_needed: int  # of one copy
    bytes_a_clip: int
    bytes_free: int
    fixed_frames: bool
    bytes_there: int = 0  # of one copy, already stored by an earlier run: these need no room

    @property
    def uses_a_clip(self) -> float:
        return self.uses / max(1, self.clips)

    @property
    def against(self) -> str | None:
        """Why storing does not pay; None when it does."""
        if not self.fixed_frames:
            return OTHER_FRAMES
        if self.uses_a_clip < LEAST_USES:
            return f"training looks at a clip {self.uses_a_clip:.1f} times, storing pays from {LEAST_USES:.0f}"
        return self.too_big

    @property
    def too_big(self) -> str | None:
        """Why the disk is too small; None when it is not."""
        missing = COPIES * (self.bytes_needed - self.bytes_there)
        if missing <= SHARE_OF_FREE * self.bytes_free:
            return None
        need, free = size(missing), size(self.bytes_free)
        return f"{need}, DVC's cache included, are more than {SHARE_OF_FREE:.0%} of the {free} that are free"

    def __str__(self) -> str:
        return (
            f"features: {self.clips:,} distinct clip(s) x {size(self.bytes_a_clip)} = {size(self.bytes_needed)} on disk, as much again in "
            f"DVC's cache ({size(self.bytes_free)} free); training looks at a clip {self.uses_a_clip:.1f} times"
        )


def plan_features(params: Params, train: Sequence[ManifestRow], validation: Sequence[ManifestRow]) -> FeaturePlan:
    """The plan, counted from the manifests and the base's config. It reads neither weights nor media."""
    distinct = {clip_key(row): row for row in (*train, *validation) if row.media}
    with_media = sum(bool(row.media) for row in train) / max(1, len(train))  # share; the other rows are text alone
    bytes_a_clip = clip_bytes(params)
    settings = params.train
    steps = settings.total_steps(len(train))
    validations = 1 + steps // settings.validate_every + bool(steps % settings.validate_every)
    return FeaturePlan(
        clips=len(distinct),
        uses=round(steps * settings.batch_size * with_media) + validations * sum(bool(row.media) for row in validation),
        bytes_needed=sum(row_bytes(row, bytes_a_clip, params.model.num_frames) for row in distinct.values()),
        bytes_a_clip=bytes_a_clip,
        bytes_free=shutil.disk_usage(_existing(STORE)).free,
        fixed_frames=settings.sampling != "rand",
    )


def clip_bytes(params: Params) -> int:
    """Bytes of one clip's features, T x P x Dv numbers. 16 frames of CLIP ViT-L/14-336 in bfloat16 take 18.9 MB."""
    from pllava.model.plan import base_config

    config = base_config(params)
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy != "default")
    return params.model.num_frames * patches * vision.hidden_size * NUMBER_BYTES[params.features.dtype]


def row_bytes(row: ManifestRow, bytes_a_clip: int, num_frames: int) -> int:
    """Bytes of the features of a row's clip; a picture counts as one frame."""
    return bytes_a_clip // num_frames if row.kind == "image" else bytes_a_clip


def decide(params: Params, plan: FeaturePlan) -> str | None:
    """The reason not to store features; None to store them. Raises PllavaError when `enabled: true` needs more disk than there is."""
    if params.features.enabled == "auto":
        return plan.against
    if not params.features.enabled:
        return "features.enabled is false"
    if plan.too_big:
        raise PllavaError(f"the disk is too small for the features: {plan.too_big}. Free some, or set features.enabled: auto or false")
    return None


def size(count: float) -> str:
    """A number of bytes as text with a unit: "18.9 MB"."""
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if count >= 100 or not unit else f"{count:.1f} {UNITS[unit]}"


def _existing(path: Path) -> Path:
    """The nearest folder at or above the path that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
