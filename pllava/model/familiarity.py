"""Whether a clip is like the clips that a model was trained on.

familiarity = Familiarity.fit([describe(clip) for clip in training_clips])      # features [T, P, Dv] of the vision tower
familiarity.measure(clip).far

A clip is described by three numbers for each feature of the vision tower, over all frames and patches: the mean, the logarithm of the
standard deviation, and the cube root of the skewness. (The mean alone takes an empty picture for a familiar one.) The distance of a clip is
Mahalanobis' distance from the mean of the training clips, as a root mean square: about 1 for a training clip.
A clip is far when it is farther than 99 % of the training clips (and 5 %), each measured by statistics of the other clips.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "familiarity.safetensors"  # in an adapter folder, or in a folder of a whole model
FAR = "This clip is unlike the clips this model was trained on; its answer is likely wrong."
CLIPS, FEWEST = 500, 20  # training clips that are measured, at most and at least; with fewer there are no statistics
QUANTILE, MARGIN, FOLDS = 0.99, 1.05, 5
RANK, VALUES = 32, 24_000  # principal components, and numbers in them, at most: the file stays below 100 kB
LEAST_SPREAD, LEAST_VARIANCE = 1e-4, 0.02  # so that a feature in which all training clips agree does not decide alone
MOST = 1e6  # standard deviations of one value; a value that is not finite counts as so far, too


@dataclass(frozen=True)
class ClipDistance:
    """distance, threshold: in units of the training clips' spread."""

    distance: float
    threshold: float

    @property
    def far(self) -> bool:
        return self.distance > self.threshold


@dataclass(frozen=True)
class Familiarity:
    """Statistics of training clips, D = 3 * Dv values a clip. Of a continued training, they are those of its last part."""

    mean: np.ndarray  # [D]
    spread: np.ndarray  # [D], standard deviations
    components: np.ndarray  # [K, D], principal components of the values in units of `spread`
    variances: np.ndarray  # [K], along the components
    residual: np.ndarray  # [D], variances of the remainder
    threshold: float
    clips: int  # number of training clips

    @classmethod
    def fit(cls, descriptions: Sequence[np.ndarray]) -> Familiarity | None:
        """The statistics of described clips; None for fewer than FEWEST clips. Equal clips give equal statistics."""
        values = np.asarray(descriptions)
        if len(values) < FEWEST:
            return None
        rank = min(RANK, len(values) // 16, VALUES // values.shape[1])
        held_out: list[float] = []
        for fold in range(FOLDS):
            inside = np.arange(len(values)) % FOLDS == fold
            others = cls._statistics(values[~inside], rank)
            held_out += [others._distance(value) for value in values[inside]]
        whole = cls._statistics(values, rank)
        return cls(**(vars(whole) | {"threshold": float(np.float32(MARGIN * np.quantile(held_out, QUANTILE)))}))

    @classmethod
    def _statistics(cls, values: np.ndarray, rank: int) -> Familiarity:
        mean = values.mean(0).astype(np.float32)
        spread = np.maximum(values.std(0), LEAST_SPREAD).astype(np.float32)
        scaled = (values - mean) / spread
        _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
        components = directions[:rank].astype(np.float16)
        components *= np.where(components.sum(1, keepdims=True) < 0, np.float16(-1), np.float16(1))  # their signs are arbitrary
        rest = scaled - scaled @ components.T @ components
        return cls(
            mean=mean,
            spread=spread,
            components=components,
            variances=np.maximum(singular[:rank] ** 2 / len(values), LEAST_VARIANCE).astype(np.float32),
            residual=np.maximum((rest**2).mean(0), LEAST_VARIANCE).astype(np.float32),
            threshold=MOST,
            clips=len(values),
        )

    def _distance(self, description: np.ndarray) -> float:
        scaled = np.clip(np.nan_to_num((description - self.mean) / self.spread, nan=MOST), -MOST, MOST)
        along = self.components.astype(np.float64) @ scaled
        rest = scaled - along @ self.components.astype(np.float64)
        squares = (along**2 / self.variances).sum() + (rest**2 / self.residual).sum()
        return float(np.sqrt(squares / len(scaled)))

    def measure(self, features: Tensor) -> ClipDistance:
        """The distance of a clip. features: [T, P, Dv], what the projector receives."""
        return ClipDistance(self._distance(describe(features)), self.threshold)

    def save(self, folder: Path) -> None:
        numbers = {"threshold": np.array([self.threshold], np.float32), "clips": np.array([self.clips])}
        save_file({key: np.ascontiguousarray(value) for key, value in (vars(self) | numbers).items()}, folder / FILE)


def describe(features: Tensor) -> np.ndarray:
    """The description of a clip, float64 [3 * Dv]. features: [T, P, Dv]."""
    values = features.detach().float().flatten(0, 1)
    mean = values.mean(0)
    values = values - mean
    deviation = values.pow(2).mean(0).sqrt().clamp(min=1e-6)
    skewness = (values / deviation).pow(3).mean(0)
    parts: list[Any] = [mean, deviation.log(), skewness.sign() * skewness.abs().pow(1 / 3)]
    return np.concatenate([part.cpu().double().numpy() for part in parts])


def copy(source: Path, target: Path) -> None:
    """Copy the statistics in a folder, if it has any."""
    if (source / FILE).exists():
        shutil.copyfile(source / FILE, target / FILE)


def read(folder: Path) -> Familiarity | None:
    """The statistics in a folder; None when it has none. Raises PllavaError for a damaged file."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        values: dict[str, Any] = load_file(file)
        return Familiarity(**(values | {"threshold": float(values["threshold"][0]), "clips": int(values["clips"][0])}))
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise PllavaError(f"{file}: no statistics of training clips ({error}). Fetch or train the adapter again") from None
