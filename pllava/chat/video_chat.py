"""Encode a video once, ask many questions about it.

    chat = VideoChat(model, processor, template="vicuna")
    video = chat.watch("clip.mp4")              # decode, encode, prefill the prompt up to the video's last token
    video.ask("What happens?").text
    video.ask_all(["Where is it?", "Who is there?"])
    for piece in video.stream("Describe it."): print(piece, end="")

The keys and values of the prompt's beginning (2,304 of some 2,350 tokens in the published models) are computed once a video and
reused by every question. Answers are those of `model.generate` on the whole prompt.
"""

from __future__ import annotations

import copy
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from pllava.chat.template import Template, load_template
from pllava.errors import PllavaError
from pllava.video.reader import VideoFrames, read_video

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece-like tokenizers spell a byte that is no token of its own
History = Sequence[tuple[str, str]]  # (question, answer), oldest first


@dataclass(frozen=True)
class Answer:
    text: str
    token_ids: list[int]  # generated, without the end token
    prompt: str  # with one `<image>`

    def __str__(self) -> str:
        return self.text


class VideoChat:
    """model, processor: of `pllava.load`. template: a shipped name, a .yaml file or a Template. sampling: frame rule of `read_video`."""

    def __init__(self, model: Any, processor: Any, template: Template | str = "vicuna", sampling: str = "eval") -> None:
        self.model = model.eval()
        self.processor = processor
        self.template = template if isinstance(template, Template) else load_template(template)
        self.sampling = sampling

    def watch(self, video: str | Path | VideoFrames, start: float | None = None, end: float | None = None) -> WatchedVideo:
        """Raises PllavaError when the video cannot be read. start, end: seconds."""
        if not isinstance(video, VideoFrames):
            video = read_video(video, self.processor.num_frames, self.sampling, start, end)
        elif start is not None or end is not None:
            raise PllavaError("start and end are for a path; these frames are sampled already. Pass them to pllava.read_video")
        return WatchedVideo(self, video)

    def generate(self, **inputs: Any) -> list[list[int]]:
        """New token ids of each row, cut at its end token. `inputs` go to `model.generate`."""
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = self.model.generate(**inputs)
        return [self._until_end(row) for row in output[:, length:].tolist()]

    def text(self, prompt_ids: list[int], new_ids: list[int]) -> str:
        """The answer in generated ids; prompt_ids: the end of their prompt."""
        return self.template.trim_reply(self.processor.decode_new(prompt_ids, self._until_end(new_ids)))

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = self.end_token_ids
        return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]

    @property
    def end_token_ids(self) -> set[int]:
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return {token for token in (*listed, self.processor.tokenizer.eos_token_id) if token is not None}

    def settings(self, max_new_tokens: int, temperature: float, top_p: float) -> dict[str, Any]:
        """Arguments of `generate`; temperature 0 is greedy, whatever the checkpoint's generation_config.json says."""
        if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise PllavaError(f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}: need >= 1, >= 0 and in (0, 1]")
        pad = self.processor.tokenizer.pad_token_id
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": temperature > 0,
            "temperature": temperature or None,
            "top_p": top_p if temperature else None,
            "top_k": None,
            "num_beams": 1,
            "eos_token_id": sorted(self.end_token_ids) or None,
            "pad_token_id": pad if pad is not None else next(iter(self.end_token_ids), None),
            "suppress_tokens": [self.processor.image_token_id],  # a placeholder without a video means nothing in a reply
        }


class WatchedVideo:
    """One video, encoded. `frames` tells which frames were seen and which reader decoded them."""

    def __init__(self, chat: VideoChat, frames: VideoFrames) -> None:
        self.chat = chat
        self.frames = frames
        model, processor = chat.model, chat.processor
        ids = self._tokenize(chat.template.prompt_for("?"))
        after_video = max(i for i, token in enumerate(ids) if token == processor.image_token_id) + 1
        self.prefix: list[int] = ids[:after_video]
        device = model.get_input_embeddings().weight.device
        with torch.inference_mode():
            pixels = processor.preprocess_video(frames.frames)[None].to(device)  # [1, T, 3, H, W]
            cache = DynamicCache(config=model.config.get_text_config())
            prefix = torch.tensor([self.prefix], device=device)
            model(
                input_ids=prefix,
                attention_mask=torch.ones_like(prefix),
                pixel_values_videos=pixels,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = cache
        self._device = device

    def ask(
        self,
        question: str,
        max_new_tokens: int = 100,
        history: History = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Answer:
        """One answer. history: earlier (question, answer) pairs of this conversation. Greedy by default; temperature above 0 samples.

        Raises PllavaError when the question holds a role marker or a special token.
        """
        return self._answer([self.chat.template.prompt_for(question, history)], max_new_tokens, temperature, top_p, seed)[0]

    def ask_all(
        self,
        questions: Sequence[str],
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        batch_size: int = 16,
    ) -> list[Answer]:
        """Independent answers, `batch_size` questions at once over the shared beginning; each is what `ask` gives alone."""
        prompts = [self.chat.template.prompt_for(question) for question in questions]
        answers: list[Answer] = []
        for first in range(0, len(prompts), batch_size):
            answers += self._answer(prompts[first : first + batch_size], max_new_tokens, temperature, top_p, seed)
        return answers

    def conversation(self) -> Conversation:
        """A dialogue: each question is asked with what was said before."""
        return Conversation(self)

    def stream(
        self,
        question: str,
        max_new_tokens: int = 100,
        history: History = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The answer in pieces as they are made; joined they are the text that `ask` gives. Leaving the loop stops the model."""
        prompt = self.chat.template.prompt_for(question, history)
        settings = self.chat.settings(max_new_tokens, temperature, top_p)
        row = self._tokenize(prompt)
        return _Stream(self.chat, self._inputs([row]) | settings, row[len(self.prefix) :], seed).pieces()

    def _answer(self, prompts: list[str], max_new_tokens: int, temperature: float, top_p: float, seed: int | None) -> list[Answer]:
        settings = self.chat.settings(max_new_tokens, temperature, top_p)
        rows = [self._tokenize(prompt) for prompt in prompts]
        with _seeded(seed, self._device):
            generated = self.chat.generate(**self._inputs(rows), **settings)
        return [
            Answer(self.chat.text(row[len(self.prefix) :], ids), ids, prompt)
            for row, ids, prompt in zip(rows, generated, prompts, strict=True)
        ]

    def _tokenize(self, prompt: str) -> list[int]:
        """The whole prompt at once (pieces may tokenise differently), the placeholder expanded."""
        return self.chat.processor.expand_ids(self.chat.processor.tokenizer(prompt)["input_ids"])

    def _inputs(self, rows: list[list[int]]) -> dict[str, Any]:
        """Prefix, padding, rest: input_ids [B, L] with the mask 0 on the padding between, and a copy of the cache of the prefix."""
        shared = len(self.prefix)
        for row in rows:
            if row[:shared] != self.prefix:
                raise PllavaError("the prompt does not begin as the encoded one did: the template's text before the video must not vary")
        pad = self.chat.processor.tokenizer.pad_token_id
        longest = max(len(row) for row in rows)
        padded = [self.prefix + [pad if pad is not None else 0] * (longest - len(row)) + row[shared:] for row in rows]
        input_ids = torch.tensor(padded, device=self._device)
        attention_mask = torch.ones_like(input_ids)
        for i, row in enumerate(rows):
            attention_mask[i, shared : shared + longest - len(row)] = 0
        cache = copy.deepcopy(self._cache)  # generation appends to it
        if len(rows) > 1:
            cache.batch_repeat_interleave(len(rows))
        return {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}


class Conversation:
    """What was said about a video so far; `ask` adds to it."""

    def __init__(self, video: WatchedVideo) -> None:
        self.video = video
        self.history: list[tuple[str, str]] = []

    def ask(self, question: str, max_new_tokens: int = 100, **sampling: Any) -> Answer:
        answer = self.video.ask(question, max_new_tokens, self.history, **sampling)
        self.history.append((question, answer.text))
        return answer


class _Stopped(StoppingCriteria):
    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class _Stream(BaseStreamer):
    """Runs `generate` in a thread; of the text so far, what is new and settled is handed on."""

    def __init__(self, chat: VideoChat, inputs: dict[str, Any], prompt_ids: list[int], seed: int | None) -> None:
        self.chat, self.inputs, self.prompt_ids, self.seed = chat, inputs, prompt_ids, seed
        self.queue: queue.Queue[str | BaseException | None] = queue.Queue()
        self.stopped = _Stopped()
        self.ids: list[int] = []
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:  # `generate` hands over the prompt first
            self.prompt_seen = True
            return
        self.ids += value.flatten().tolist()
        # A run of byte tokens may turn from characters into U+FFFD by its next byte: wait for its end.
        settled = len(self.ids)
        while settled and BYTE_TOKEN.fullmatch(self.chat.processor.tokenizer.convert_ids_to_tokens(self.ids[settled - 1])):
            settled -= 1
        self.queue.put(_steady(self._text(self.ids[:settled]), self.chat.template.sep[1].strip()))

    def _text(self, ids: list[int]) -> str:
        return self.chat.text(self.prompt_ids, ids)

    def end(self) -> None:
        pass

    def pieces(self) -> Iterator[str]:
        worker = threading.Thread(target=self._run, daemon=True)
        worker.start()
        given = ""
        try:
            while (item := self.queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if item.startswith(given) and item != given:
                    yield item[len(given) :]
                    given = item
        finally:
            self.stopped.event.set()
            worker.join()

    def _run(self) -> None:
        device = self.inputs["input_ids"].device
        try:
            with _seeded(self.seed, device):
                self.chat.generate(**self.inputs, streamer=self, stopping_criteria=StoppingCriteriaList([self.stopped]))
            self.queue.put(self._text(self.ids))
            self.queue.put(None)
        except BaseException as error:  # handed to the thread that reads the pieces, which raises it
            self.queue.put(error)


def _steady(text: str, closing: str) -> str:
    """What later tokens cannot take back: an unfinished character decodes to U+FFFD, a closing separator comes in pieces."""
    text = text.rstrip("\ufffd")
    pieces = (closing[:length] for length in range(len(closing), 0, -1))
    return text.removesuffix(next((piece for piece in pieces if text.endswith(piece)), ""))


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """torch's generators start from `seed` and are put back after; None leaves them alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
