"""Several models answer the same questions side by side: a clip is decoded once and passes the frozen vision tower once, for all of them.

The work is cut into units (`units.py`). A unit's batches are always the same, whether a run was interrupted or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pllava.benchmarks.benchmark import Benchmark, Sample
from pllava.core.errors import PllavaError
from pllava.stages.evaluate.units import Clip, questions_of
from pllava.video.child import NoReader
from pllava.video.readers import Readers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pllava.chat.template import Template
    from pllava.model.processing import PllavaProcessor


READERS = 2  # clips that are decoded at once


@dataclass(frozen=True)
class Variant:
    """One column of the results. `single_frame`: it sees only the middle one of the sampled frames, repeated to the model's num_frames."""

    name: str
    model: Any
    single_frame: bool = False
    within: Callable[[], AbstractContextManager] | None = None  # entered around its answers, e.g. to switch an adapter off


class Predictor:
    """The variants with what they share. `answer(unit)` gives one row for each variant and question."""

    def __init__(
        self,
        benchmark: Benchmark,
        variants: Sequence[Variant],
        processor: PllavaProcessor,
        template: Template,
        num_frames: int,
        max_new_tokens: int,
        batch_size: int,
        root: Path,
    ):
        self.benchmark = benchmark
        self.variants = variants
        self.processor = processor
        self.template = template
        self.num_frames = num_frames
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.root = root
        self.readers = Readers(READERS, picture=processor.picture)

    def answer(self, unit: Sequence[Clip]) -> list[dict[str, Any]]:
        """Rows of `results.jsonl`. A clip that can't be read gives an empty prediction and its error, for every variant."""
        with ThreadPoolExecutor(READERS) as pool:
            decoded = list(pool.map(self._decode, unit))
        read = [pixels for pixels in decoded if isinstance(pixels, Tensor)]
        features = iter(self._encode(read))
        asked: list[tuple[Sample, Tensor]] = []
        rows: list[dict[str, Any]] = []
        for clip, pixels in zip(unit, decoded, strict=True):
            if isinstance(pixels, Tensor):
                seen = next(features)
                asked += [(question, seen) for sample in clip.samples for question in questions_of(sample)]
            else:
                rows += [self._row(variant, sample, [""], pixels) for sample in clip.samples for variant in self.variants]
        answered = [sample for clip, pixels in zip(unit, decoded, strict=True) if isinstance(pixels, Tensor) for sample in clip.samples]
        for variant in self.variants:
            predictions = self._predict(variant, asked)
            given = iter(predictions)
            rows += [self._row(variant, sample, [next(given) for _ in questions_of(sample)], None) for sample in answered]
        return rows

    def _decode(self, clip: Clip) -> Tensor | str:
        """Pixels [T, 3, h, w], or what is wrong with the clip."""
        try:
            video = self.readers.read(clip.media, self.num_frames, self.benchmark.frame_rule, clip.start, clip.end)
        except NoReader:
            raise
        except PllavaError as error:
            return str(error).replace(f"{self.root}/", "")  # results hold no path of this machine
        return self.processor.preprocess_video(video.frames)

    @torch.inference_mode()
    def _encode(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Tower features [T, P, Dv] of each clip; the tower is the same in every variant."""
        if not clips:
            return []
        features = self.variants[0].model.vision_features(torch.cat(list(clips)))
        return list(features.split([len(clip) for clip in clips]))

    def _predict(self, variant: Variant, asked: Sequence[tuple[Sample, Tensor]]) -> list[str]:
        """Greedy answers, each about its own clip. All questions about a clip share its prefix, and a batch holds several clips."""
        from pllava.chat import VideoChat

        if not asked:
            return []
        chat = VideoChat(variant.model, self.processor, self.template, cache_bytes=0)
        with variant.within() if variant.within else nullcontext():
            clips = {id(seen): seen[len(seen) // 2][None] if variant.single_frame else seen for _, seen in asked}
            videos = dict(zip(clips, chat.watch_features(list(clips.values())), strict=True))
            about = [videos[id(seen)] for _, seen in asked]
            questions = [self.benchmark.prompt(sample) for sample, _ in asked]
            return [answer.text for answer in chat.ask_each(about, questions, self.max_new_tokens, self.batch_size)]

    def _row(self, variant: Variant, sample: Sample, predictions: Sequence[str], error: str | None) -> dict[str, Any]:
        """Not scored yet: `correct` is None."""
        row = {
            "model": variant.name,
            "id": sample.id,
            "task": sample.task,
            "media": sample.media.relative_to(self.root).as_posix(),
            "start": sample.start,
            "end": sample.end,
            "question": sample.question,
            "candidates": list(sample.candidates),
            "answer": self.benchmark.expected(sample),
            "prediction": predictions[0],
            "correct": None,
            "error": error,
        }
        if sample.second_question is not None:
            row |= {"second_question": sample.second_question, "second_prediction": predictions[-1]}
        return row
