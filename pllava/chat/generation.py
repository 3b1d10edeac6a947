"""How an answer is generated: `Generation(max_new_tokens=50, temperature=0.7, seed=1)`. The same fields are arguments of `ask`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from pllava.core.errors import PllavaError
from pllava.model.shared_prefix import stop_if

COLD = 1e-6  # temperature; division by a lower one overflows the logits, so decoding is greedy below it
FinishReason = Literal["stop", "length"]  # an end token, a stop string or a repetition; max_new_tokens
PHRASE = 8  # tokens of the longest phrase that counts as repeated
REPEATS, REPEATED = 4, 12  # a repetition holds its phrase so many times, and so many tokens: a number such as 100000 is none


class Options(TypedDict, total=False):
    """Arguments of `ask`, `ask_all` and `stream` besides the question and max_new_tokens: see Generation."""

    temperature: float
    top_p: float
    num_beams: int
    repetition_penalty: float
    length_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    cancel: threading.Event | None
    stop_at_repetition: bool


@dataclass(frozen=True)
class Generation:
    """Settings of one answer. Raises one PllavaError that names all invalid values."""

    max_new_tokens: int = 100
    temperature: float = 0.0  # 0: greedy; above: sampling
    top_p: float = 1.0  # sample from the most probable tokens with this total probability; 1: from all
    num_beams: int = 1
    repetition_penalty: float = 1.0  # above 1: tokens of the prompt and of the answer so far become less probable
    length_penalty: float = 1.0  # of a beam search; above 0 favours longer answers
    stop: str | Sequence[str] = ()  # the answer ends before the first of these
    seed: int | None = None  # of sampling; other questions in the batch do not change an answer
    cancel: threading.Event | None = None  # once set, the model stops within a token and raises Cancelled
    stop_at_repetition: bool = False  # the answer ends when it only repeats a phrase: see `repeats`

    def __post_init__(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stops)
        if 0 < self.temperature < COLD:
            object.__setattr__(self, "temperature", 0.0)
        checks = {
            f"max_new_tokens {self.max_new_tokens}: need >= 1": self.max_new_tokens >= 1,
            f"temperature {self.temperature}: need >= 0, and a number": 0 <= self.temperature < math.inf,
            f"top_p {self.top_p}: need in (0, 1]": 0 < self.top_p <= 1,
            f"num_beams {self.num_beams}: need >= 1": self.num_beams >= 1,
            f"repetition_penalty {self.repetition_penalty}: need > 0": self.repetition_penalty > 0,
            "stop: an empty string stops everything": "" not in stops,
        }
        if wrong := [problem for problem, fine in checks.items() if not fine]:
            raise PllavaError("; ".join(wrong))

    @property
    def samples_beams(self) -> bool:
        """Whether beams are sampled. transformers then draws for all rows from torch's one generator, so a batch must hold one question."""
        return self.num_beams > 1 and self.temperature > 0

    def arguments(self, suppress: int, end: set[int], pad: int | None) -> dict[str, Any]:
        """Arguments of `model.generate`. They override the sampling settings of a checkpoint's generation_config.json."""
        sample = self.temperature > 0
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": sample,
            "temperature": self.temperature or None,
            "top_p": self.top_p if sample else None,
            "top_k": None,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            "eos_token_id": sorted(end) or None,
            "pad_token_id": pad if pad is not None else next(iter(end), None),
            "suppress_tokens": [suppress],  # a reply must hold no placeholder
        }
        if self.num_beams > 1:
            arguments["length_penalty"] = self.length_penalty
        return arguments

    def rowwise(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with sampling by `RowSampler`: each row of a batch draws the tokens that it would draw alone."""
        if not arguments["do_sample"] or self.num_beams > 1:
            return arguments
        steps: list[LogitsProcessor] = []
        if self.temperature != 1.0:
            steps.append(TemperatureLogitsWarper(self.temperature))
        if self.top_p < 1.0:
            steps.append(TopPLogitsWarper(self.top_p))
        chosen = LogitsProcessorList([*steps, RowSampler(self.seed)])
        return arguments | {"do_sample": False, "temperature": None, "top_p": None, "logits_processor": chosen}

    def criteria(self, prompt_length: int, text_of: Callable[[list[int]], str]) -> StoppingCriteriaList:
        """Stop strings, repetition and the cancel event. prompt_length: tokens. text_of: decodes generated ids."""
        return StoppingCriteriaList(
            ([StopStrings(tuple(self.stop), prompt_length, text_of)] if self.stop else [])
            + ([RepetitionStop(prompt_length)] if self.stop_at_repetition else [])
            + ([CancelCheck(self.cancel)] if self.cancel is not None else [])
        )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and restore them afterwards. One thread at a time. None: change nothing."""
    if seed is None:
        yield
        return
    with _generators, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


_generators = threading.Lock()


class RowSampler(LogitsProcessor):
    """Draws the token of each row with a generator of its own, seeded with `seed`. A row alone in `generate` gets the same token."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(dim=-1)
        if self.seed is None:
            drawn = torch.multinomial(probabilities, 1)
        else:
            if not self.generators:
                self.generators = [torch.Generator(scores.device).manual_seed(self.seed) for _ in scores]
            drawn = torch.cat([torch.multinomial(p[None], 1, generator=g) for p, g in zip(probabilities, self.generators, strict=True)])
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class StopStrings(StoppingCriteria):
    """Stops a row whose text holds a stop string. Compares text, because a stop string may begin or end within a token."""

    def __init__(self, stops: tuple[str, ...], prompt_length: int, text_of: Callable[[list[int]], str]) -> None:
        self.stops, self.prompt_length, self.text_of = stops, prompt_length, text_of
        # A stop string ends in the newest token, so only these last tokens are decoded. A character has at most 4 byte tokens.
        self.window = 4 * max(map(len, stops)) + 16

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [self.text_of(row) for row in input_ids[:, self.prompt_length :][:, -self.window :].tolist()]
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


class RepetitionStop(StoppingCriteria):
    """Stops a row whose generated tokens end in a repetition. prompt_length: tokens."""

    def __init__(self, prompt_length: int) -> None:
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tails = input_ids[:, self.prompt_length :][:, -PHRASE * REPEATS :].tolist()
        return torch.tensor([repeats(tail) for tail in tails], device=input_ids.device)


class CancelCheck(StoppingCriteria):
    """Raises Cancelled once the event is set."""

    def __init__(self, cancel: threading.Event) -> None:
        self.cancel = cancel

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        stop_if(self.cancel)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def repeats(ids: Sequence[int]) -> bool:
    """Whether the ids end in one phrase of 1 to 8 tokens, four times or more in a row and 12 tokens or more in all."""
    for phrase in range(1, PHRASE + 1):
        length = max(REPEATS * phrase, REPEATED)
        tail = ids[-length:]
        if len(tail) == length and tail[phrase:] == tail[:-phrase]:
            return True
    return False


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    positions = [text.find(stop) for stop in stops if stop in text]
    return text[: min(positions)] if positions else text
