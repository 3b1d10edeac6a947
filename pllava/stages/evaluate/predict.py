"""Several variants of a model answer the same questions. Each clip is decoded once and encoded once by the frozen vision tower.

The questions are split into units (`units.py`). A unit is always split into the same batches, so a resumed run gives the same answers.
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


READERS = 2  # clips decoded in parallel


@dataclass(frozen=True)
class Variant:
    """A model under a name, as the results list it. `single_frame`: it sees the middle sampled frame only, repeated to num_frames."""

    name: str
    model: Any
    single_frame: bool = False
    within: Callable[[], AbstractContextManager] | None = None  # context manager around generation, e.g. model.disable_adapter


@dataclass
class Predictor:
    """Answers units of questions with every variant; the variants share the processor, the template and the decoded clips."""

    benchmark: Benchmark
    variants: Sequence[Variant]
    processor: PllavaProcessor
    template: Template
    num_frames: int
    max_new_tokens: int
    batch_size: int
    root: Path  # of the benchmark's data

    def __post_init__(self) -> None:
        self.readers = Readers(READERS, picture=self.processor.picture)

    def answer(self, unit: Sequence[Clip]) -> list[dict[str, Any]]:
        """One row of `results.jsonl` for each variant and sample, not scored yet.

        An unreadable clip gives every variant a row with an empty prediction and the error.
        """
        with ThreadPoolExecutor(READERS) as pool:
            decoded = list(pool.map(self._decode, unit))
        readable = [pixels for pixels in decoded if isinstance(pixels, Tensor)]
        features = iter(self._encode(readable))
        questions: list[tuple[Sample, Tensor]] = []  # (question, features of its clip)
        rows: list[dict[str, Any]] = []
        for clip, pixels in zip(unit, decoded, strict=True):
            if isinstance(pixels, Tensor):
                clip_features = next(features)
                questions += [(question, clip_features) for sample in clip.samples for question in questions_of(sample)]
            else:
                rows += [self._row(variant, sample, [""], pixels) for sample in clip.samples for variant in self.variants]
        answered = [sample for clip, pixels in zip(unit, decoded, strict=True) if isinstance(pixels, Tensor) for sample in clip.samples]
        for variant in self.variants:
            predictions = iter(self._predict(variant, questions))
            rows += [self._row(variant, sample, [next(predictions) for _ in questions_of(sample)], None) for sample in answered]
        return rows

    def _decode(self, clip: Clip) -> Tensor | str:
        """Pixels [T, 3, h, w], or the error message of an unreadable clip."""
        try:
            video = self.readers.read(clip.media, self.num_frames, self.benchmark.frame_rule, clip.start, clip.end)
        except NoReader:
            raise
        except PllavaError as error:
            return str(error).replace(f"{self.root}/", "")  # results hold no path of this machine
        return self.processor.preprocess_video(video.frames)

    @torch.inference_mode()
    def _encode(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Tower features [T, P, Dv] of each clip. All variants have the same tower, so the first one encodes."""
        if not clips:
            return []
        features = self.variants[0].model.vision_features(torch.cat(list(clips)))
        return list(features.split([len(clip) for clip in clips]))

    def _predict(self, variant: Variant, questions: Sequence[tuple[Sample, Tensor]]) -> list[str]:
        """Greedy answers to (question, clip features) pairs, in order. Questions about one clip share its prefix."""
        from pllava.chat import VideoChat

        if not questions:
            return []
        chat = VideoChat(variant.model, self.processor, self.template, cache_bytes=0)
        with variant.within() if variant.within else nullcontext():
            clips = {id(clip): clip[len(clip) // 2][None] if variant.single_frame else clip for _, clip in questions}
            videos = dict(zip(clips, chat.watch_features(list(clips.values())), strict=True))
            question_videos = [videos[id(clip)] for _, clip in questions]
            prompts = [self.benchmark.prompt(sample) for sample, _ in questions]
            return [answer.text for answer in chat.ask_each(question_videos, prompts, self.max_new_tokens, self.batch_size)]

    def _row(self, variant: Variant, sample: Sample, predictions: Sequence[str], error: str | None) -> dict[str, Any]:
        """A row of `results.jsonl` that is not scored yet: `correct` is None."""
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
