"""Encode a video once, ask many questions about it.

    chat = VideoChat(model, processor, template="vicuna")
    video = chat.watch("clip.mp4")              # decode, encode, prefill the prompt up to the video's last token
    video.ask("What happens?").text
    video.ask_all(["Where is it?", "Who is there?"])
    for piece in video.stream("Describe it."): print(piece, end="")
    chat.ask_each(chat.watch_all(["a.mp4", "b.mp4"]), "What happens?")      # several videos at once

The keys and values of the prompt's beginning (2,304 of some 2,350 tokens in the published models) are computed once a video, and
every question reuses them. Answers equal the answers of `model.generate` to the whole prompt.
"""

from __future__ import annotations

import copy
import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pllava.chat.chat_template import ChatTemplate, chat_template, default_of
from pllava.chat.generation import FinishReason, Generation, Options, cut, repeats, seeded
from pllava.chat.media_key import frames_key, path_key
from pllava.chat.prefix_cache import ROOM, EncodedVideo, PrefixCache, opened, split, tail_of, weights_key
from pllava.chat.template import AUTO, CHAT, Template, load_template, template_for
from pllava.chat.video_session import Conversation, History, WatchedVideo
from pllava.core.errors import PllavaError
from pllava.model.familiarity import ClipDistance
from pllava.model.shared_prefix import BufferedLayer, stop_if
from pllava.video.frames import VideoFrames
from pllava.video.limits import Limits
from pllava.video.reader import kind_of_path, read_video
from pllava.video.readers import Readers

__all__ = ["Answer", "Conversation", "History", "VideoChat", "WatchedVideo"]

CACHE_BYTES = 4 << 30  # a 7B model's keys and values of 2,304 visual tokens are about 1.2 GB a video in bf16
FIRST_STEPS = 32  # generated tokens with memory reserved at the start; a longer answer reserves more while it grows
logger = logging.getLogger("pllava")


@dataclass(frozen=True)
class Answer:
    text: str
    token_ids: list[int]  # generated ids, without the end token, with the tokens of a stop string
    prompt: str  # with one `<image>`
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0  # placeholders expanded
    stopped: Literal["repetition"] | None = None  # why a finished answer ends early
    distance: ClipDistance | None = None  # of the clip from the training clips; None: the model has no statistics of them

    def __str__(self) -> str:
        return self.text


class VideoChat:
    """model, processor: of `pllava.load`. sampling: frame rule of `read_video`.

    template: a shipped name, a .yaml file or a Template; "chat": the base's own chat template; "auto": "chat" where the base has one,
    but the recorded template of a published model, and "vicuna" without one.

    cache_bytes: upper bound of the cache, on the model's device; 0 keeps no video. `cache.stats()` counts hits and misses.
    Any number of threads may use one VideoChat. An answer does not depend on other questions that are asked at the same time.
    """

    def __init__(
        self, model: Any, processor: Any, template: Template | str = AUTO, sampling: str = "eval", cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.template = self._template(template)
        self.sampling = sampling
        self.cache = PrefixCache(cache_bytes)
        self.limits: Limits | None = None  # of the videos to read; None: the defaults of `read_video`
        self.readers: Readers | None = None  # processes that read the videos, under their own limits; None: this process reads
        self._logged_reasons: set[str] = set()

    def with_template(self, template: Template | str) -> VideoChat:
        """A chat with the same model and cache and another template."""
        other = copy.copy(self)
        other.template = self._template(template)
        return other

    def _template(self, template: Template | str) -> Template:
        if isinstance(template, Template):
            return template
        tokenizer = self.processor.tokenizer
        jinja, name = default_of(self.processor.chat_template) or default_of(tokenizer.chat_template), str(tokenizer.name_or_path)
        if template == AUTO:
            template = template_for(name, jinja is not None)
        return chat_template(tokenizer, jinja, name) if template == CHAT else load_template(template)

    # Watching

    def watch(
        self, video: str | Path | VideoFrames, start: float | None = None, end: float | None = None, cancel: Any = None
    ) -> WatchedVideo:
        """Decode, encode and prefill a video, or find it in the cache. start, end: seconds. cancel: an event that stops it.

        Raises PllavaError when the video cannot be read, Cancelled when the event is set.
        """
        key, read = self._source(video, start, end)
        return WatchedVideo(self, self.encoded(key, read, cancel), key)

    def watch_all(self, videos: Iterable[str | Path | VideoFrames], batch_size: int = 8, workers: int = 2) -> list[WatchedVideo]:
        """Several videos of any sizes, `batch_size` encoded at once. Each equals the result of `watch`. Raises as `watch` does."""
        if batch_size < 1 or workers < 1:
            raise PllavaError(f"batch_size {batch_size}, workers {workers}: both must be at least 1")
        sources = [self._source(video, None, None) for video in videos]
        # Equal videos are encoded once. A video with random frames has no key; its position in the list stands for one.
        keys = [number if key is None else self._full_key(key) for number, (key, _) in enumerate(sources)]
        entries: dict[Hashable, Any] = {key: None if isinstance(key, int) else self.cache.find(key) for key in dict.fromkeys(keys)}
        missing = [keys.index(key) for key, entry in entries.items() if entry is None]
        with ThreadPoolExecutor(workers) as pool:  # decoders release the interpreter's lock
            for first in range(0, len(missing), batch_size):
                batch = missing[first : first + batch_size]
                frames = list(pool.map(lambda number: sources[number][1](), batch))
                for number, entry in zip(batch, self._encode(frames), strict=True):
                    entries[keys[number]] = entry
                    if not isinstance(keys[number], int):
                        self.cache.add(keys[number], entry)
        return [WatchedVideo(self, entries[key], source) for key, (source, _) in zip(keys, sources, strict=True)]

    def watch_features(self, features: Sequence[Tensor]) -> list[WatchedVideo]:
        """Videos made of the vision tower's features, [T, P, Dv] each (`model.vision_features`). The cache does not keep them."""
        return [WatchedVideo(self, entry, None) for entry in self._prefill([None] * len(features), features)]

    def _source(
        self, video: str | Path | VideoFrames, start: float | None, end: float | None
    ) -> tuple[Hashable | None, Callable[[], VideoFrames]]:
        """The cache key of the frames (None: random frames, or an unreadable file), and a function that reads them."""
        if isinstance(video, VideoFrames):
            if start is not None or end is not None:
                raise PllavaError("start and end are for a path; these frames are sampled already. Pass them to pllava.read_video")
            return frames_key(video), lambda: video
        number = self.processor.num_frames

        def read() -> VideoFrames:
            if self.readers is not None:
                return self.readers.read(video, number, self.sampling, start=start, end=end)
            return read_video(video, number, self.sampling, start, end, limits=self.limits)

        kind_of_path(Path(video))  # refuses pipes and devices, which cannot be hashed
        if self.sampling == "rand" or not os.access(video, os.R_OK):
            return None, read  # the reader raises the error of an unreadable file
        return (path_key(Path(video)), number, self.sampling, start, end), read

    def encoded(self, key: Hashable | None, read: Callable[[], VideoFrames], cancel: Any = None) -> EncodedVideo:
        """The encoding of the frames that `read` returns, from the cache where it holds the key. key None: not cached."""
        make = lambda: self._encode([read()], cancel)[0]  # noqa: E731
        return make() if key is None else self.cache.find_or_make(self._full_key(key), make)

    def _full_key(self, key: Hashable) -> Hashable:
        config = self._base.config
        shape = config.num_frames, tuple(config.visual_shape), config.frame_repeat
        return key, shape, tuple(self._prefix), self.shares_prefix, weights_key(self.model)

    def _encode(self, frames: Sequence[VideoFrames], cancel: Any = None) -> list[EncodedVideo]:
        stop_if(cancel)
        with torch.inference_mode():
            pixels = [self.processor.preprocess_video(video.frames).to(self.device) for video in frames]  # [T, 3, H, W]
            stop_if(cancel)
            features = self._tower_features(pixels)
        return self._prefill(frames, features, cancel)

    def _tower_features(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Features [T, P, Dv] of clips [T, 3, H, W]. Clips of one shape are encoded at once."""
        encode = self._base.model.vision_features
        if len({clip.shape for clip in pixels}) > 1:
            return [encode(clip) for clip in pixels]
        return list(encode(torch.cat(list(pixels))).split([len(clip) for clip in pixels]))

    @torch.inference_mode()
    def _prefill(self, frames: Sequence[VideoFrames | None], features: Sequence[Tensor], cancel: Any = None) -> list[EncodedVideo]:
        stop_if(cancel)
        prefix = self._prefix
        visual = self._base.model.encode_media(vision_features=_stacked(features))
        familiarity = getattr(self._base, "familiarity", None)
        distances = [familiarity.measure(clip) if familiarity else None for clip in features]
        if not self.shares_prefix:
            return [
                EncodedVideo(video, prefix, None, tokens, distance)
                for video, tokens, distance in zip(frames, visual, distances, strict=True)
            ]
        room = ROOM if len(visual) == 1 else 0
        text = self._base.config.get_text_config()
        cache = Cache(layers=[BufferedLayer(room, cancel) for _ in range(text.num_hidden_layers)])
        ids = torch.tensor([prefix] * len(visual), device=self.device)
        media = {"image": BaseModelOutputWithPooling(pooler_output=list(visual))}
        self.model(input_ids=ids, mm_encoder_outputs=media, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for layer in cache.layers:
            layer.cancel = None
        return [
            EncodedVideo(video, prefix, layers, distance=distance)
            for video, layers, distance in zip(frames, split(cache), distances, strict=True)
        ]

    # Asking

    def ask_each(
        self,
        videos: Sequence[WatchedVideo],
        questions: str | Sequence[str],
        max_new_tokens: int = 100,
        batch_size: int = 16,
        **options: Unpack[Options],
    ) -> list[Answer]:
        """One answer a video: to the question at the same position, or to one question. `batch_size` answers are generated at once."""
        each = [questions] * len(videos) if isinstance(questions, str) else list(questions)
        if len(each) != len(videos):
            raise PllavaError(f"{len(videos)} videos, {len(each)} questions: give one question for each, or a single one for all")
        prompts = [self.template.prompt_for(question) for question in each]
        settings = Generation(max_new_tokens, **options)
        if batch_size < 1:
            raise PllavaError(f"batch_size {batch_size}: need >= 1")
        size = 1 if settings.samples_beams else batch_size
        answers: list[Answer] = []
        for first in range(0, len(prompts), size):
            encoded = [video.encoded() for video in videos[first : first + size]]
            answers += self.answer(encoded, prompts[first : first + size], settings)
        return answers

    def answer(self, videos: Sequence[EncodedVideo], prompts: Sequence[str], settings: Generation, streamer: Any = None) -> list[Answer]:
        """Answers to whole prompts in one batch; each prompt is about the video at the same position."""
        rows = [self.tokenize(prompt) for prompt in prompts]
        shared = [self._shares(video, row) for video, row in zip(videos, rows, strict=True)]
        generated: dict[int, list[int]] = {}
        for together in (True, False):
            numbers = [number for number, shares in enumerate(shared) if shares == together]
            if numbers:
                run = self._behind_prefix if together else self._from_whole_prompts
                new_ids = run([videos[i] for i in numbers], [rows[i] for i in numbers], settings, streamer)
                generated |= dict(zip(numbers, new_ids, strict=True))
        return [
            self._answer(prompt, row, generated[number], settings, video.distance)
            for number, (video, prompt, row) in enumerate(zip(videos, prompts, rows, strict=True))
        ]

    def _shares(self, video: EncodedVideo, row: list[int]) -> bool:
        """Whether the prompt continues the video's prefix. Raises PllavaError when the prompt begins differently."""
        if video.layers is None:
            return False
        if row[: len(video.prefix)] == video.prefix:
            return True
        raise PllavaError("the prompt does not begin as the encoded one did: the template's text before the video must not vary")

    def _behind_prefix(self, videos: Sequence[EncodedVideo], rows: list[list[int]], settings: Generation, streamer: Any) -> list[list[int]]:
        """Generated ids of each row. Only tokens behind the video are computed."""
        different = list({id(video): video for video in videos}.values())
        numbers = [next(i for i, other in enumerate(different) if other is video) for video in videos]
        single = len(rows) == 1 and settings.num_beams == 1
        shared = len(videos[0].prefix)
        tail, kept = different[0].tail_for(rows[0][shared:]) if single else (None, 0)
        longest = max(len(row) for row in rows)
        # Placeholders pad the rows. Every prompt holds a placeholder, so the padding changes no repetition penalty.
        fill = self.processor.image_token_id
        padded = [row[:shared] + [fill] * (longest - len(row)) + row[shared:] for row in rows]
        ids = torch.tensor(padded, device=self.device)
        mask = torch.ones_like(ids)
        for row_mask, row in zip(mask, rows, strict=True):
            row_mask[shared : shared + longest - len(row)] = 0
        most = max(numbers.count(number) for number in numbers) * settings.num_beams
        room = sum(len(row) - shared for row in rows) + most * min(settings.max_new_tokens, FIRST_STEPS)
        beams = [number for number in numbers for _ in range(settings.num_beams)]
        with torch.inference_mode(), opened(different, beams, tail, kept, room, settings.cancel) as cache:
            output = self._generate(ids, mask, rows, settings, streamer, past_key_values=cache)
            if single:
                videos[0].keep_tail(tail_of(cache, shared, output[0].tolist()))
        self.cache.trim()
        return output[:, longest:].tolist()

    def _from_whole_prompts(
        self, videos: Sequence[EncodedVideo], rows: list[list[int]], settings: Generation, streamer: Any
    ) -> list[list[int]]:
        """Generated ids of each row. The whole prompt is computed: for a template that puts the question before the video."""
        batch = self.processor.pad(rows)
        ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        visual = [video.visual_tokens for video in videos]
        media = {"image": BaseModelOutputWithPooling(pooler_output=visual)}
        with torch.inference_mode():
            cache = DynamicCache(config=self._base.config.get_text_config())
            output = self._generate(ids, mask, rows, settings, streamer, mm_encoder_outputs=media, past_key_values=cache)
        return output[:, ids.shape[1] :].tolist()

    def _generate(self, ids: Tensor, mask: Tensor, rows: list[list[int]], settings: Generation, streamer: Any, **inputs: Any) -> Tensor:
        arguments = settings.rowwise(self._arguments(settings))
        last = rows[0][-1:]  # the token before the new ones decides about a leading space, which no stop string depends on
        criteria = settings.criteria(ids.shape[1], lambda new: self.processor.decode_new(last, self.until_end(new)))
        with seeded(settings.seed if settings.samples_beams else None, self.device):
            return self.model.generate(
                input_ids=ids, attention_mask=mask, streamer=streamer, stopping_criteria=criteria, **inputs, **arguments
            )

    def _answer(self, prompt: str, row: list[int], new: list[int], settings: Generation, distance: ClipDistance | None) -> Answer:
        ids = self.until_end(new)
        ended, stopped = len(ids) < len(new), False
        if settings.stop_at_repetition and (end := next((n for n in range(1, len(ids) + 1) if repeats(ids[:n])), 0)):
            ids, ended, stopped = ids[:end], True, True  # padding of the batch may follow
        before = self.after_video(row)
        text = self.processor.decode_new(before, ids)
        if any(stop in text for stop in settings.stop):
            # Padding of the batch may follow the stop string: keep the shortest beginning that holds a stop string.
            lengths = range(1, len(ids))
            ids = ids[: 1 + bisect_left(lengths, True, key=lambda n: self._stops(self.processor.decode_new(before, ids[:n]), settings))]
            text, ended, stopped = cut(self.processor.decode_new(before, ids), settings.stop), True, False
        finish: FinishReason = "stop" if ended else "length"
        return Answer(self.template.trim_reply(text), ids, prompt, finish, len(row), "repetition" if stopped else None, distance)

    @staticmethod
    def _stops(text: str, settings: Generation) -> bool:
        return any(stop in text for stop in settings.stop)

    # Shared by watching and asking

    @property
    def _base(self) -> Any:
        """The model without PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def _prefix(self) -> list[int]:
        """Token ids from the beginning of the prompt to the video's last token."""
        ids = self.tokenize(self.template.prompt_for("?"))
        return ids[: max(i for i, token in enumerate(ids) if token == self.processor.image_token_id) + 1]

    @property
    def shares_prefix(self) -> bool:
        """Whether questions can share a video's keys and values. A reason against it is logged once."""
        reason = ""
        text = self._base.config.get_text_config()
        if self.template.mm_style == "MM_AFTER":
            reason = "this conversation template puts the question before the video"
        elif text._attn_implementation not in ("sdpa", "eager"):
            reason = f"{text._attn_implementation} attention takes no mask of its own; sdpa does"
        elif getattr(text, "sliding_window", None) or len(set(getattr(text, "layer_types", None) or ["full_attention"])) > 1:
            reason = f"{text.model_type} has layers that forget"
        if reason and reason not in self._logged_reasons:
            self._logged_reasons.add(reason)
            logger.warning("%s: the language model reads the whole video again for every question", reason)
        return not reason

    def after_video(self, row: list[int]) -> list[int]:
        """Token ids behind the last placeholder of a prompt."""
        return row[len(row) - row[::-1].index(self.processor.image_token_id) :]

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of the whole prompt, the placeholder expanded. Pieces of a prompt may tokenise differently."""
        return self.processor.expand_ids(self.processor.tokenizer(prompt)["input_ids"])

    def generate(self, **inputs: Any) -> list[list[int]]:
        """Generated token ids of each row, cut at its end token. inputs: of `model.generate`."""
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = self.model.generate(**inputs)
        return [self.until_end(row) for row in output[:, length:].tolist()]

    def settings(self, max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0, **options: Any) -> dict[str, Any]:
        """Arguments of `model.generate` on a whole prompt. Temperature 0 is greedy, whatever generation_config.json holds."""
        return self._arguments(Generation(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, **options))

    def _arguments(self, settings: Generation) -> dict[str, Any]:
        return settings.arguments(self.processor.image_token_id, self.end_token_ids, self.processor.tokenizer.pad_token_id)

    def until_end(self, ids: list[int]) -> list[int]:
        """The ids before the first end token."""
        ends = self.end_token_ids
        return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]

    @property
    def end_token_ids(self) -> set[int]:
        """End tokens of the generation config and of the tokenizer, and the token that closes an answer in the base's chat template."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        own = self.template.end_token if isinstance(self.template, ChatTemplate) else None
        closing = self.processor.tokenizer.convert_tokens_to_ids(own) if own else None
        return {token for token in (*listed, self.processor.tokenizer.eos_token_id, closing) if token is not None}


def _stacked(clips: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """A stacked tensor when all clips have one shape, else the list."""
    return torch.stack(list(clips)) if len({clip.shape for clip in clips}) == 1 else list(clips)
