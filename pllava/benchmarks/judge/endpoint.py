"""A judge behind any OpenAI-compatible endpoint (a hosted one, vLLM, llama.cpp, Ollama), through the official client.

    export PLLAVA_JUDGE_BASE_URL=http://127.0.0.1:8000/v1 PLLAVA_JUDGE_MODEL=qwen PLLAVA_JUDGE_API_KEY=...

OPENAI_API_KEY is not read, so that a key of another program never starts a paid run. The key is never printed, logged or written.
"""

from __future__ import annotations

import os
import random
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pllava.benchmarks.benchmark import Score
from pllava.benchmarks.judge import rubric as rubrics
from pllava.benchmarks.judge.cache import ReplyCache, prompt_sha256
from pllava.benchmarks.judge.chat import KEY, LONGEST_WAIT, MODEL, NO_KEY, URL, Chat, Endpoint, FailedError, RefusedError
from pllava.benchmarks.judge.reply import BEST, UnreadableReplyError, parse
from pllava.benchmarks.judge.rubric import Rubric
from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.core.params import Judge as JudgeSettings

OTHER_SPELLING = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens", "temperature": None}  # None: omitted
LOOKS_LIKE_A_VERDICT = re.compile(r"['\"]?\b(pred|score|role)['\"]?\s*[:=]|ignore .{0,30}instructions", re.IGNORECASE)


def endpoint_from_environment() -> Endpoint | None:
    """The endpoint, or None if none is configured. Raises PllavaError if only one of URL and model is set, or if the URL has a password."""
    url, model = os.environ.get(URL, "").strip(), os.environ.get(MODEL, "").strip()
    if not url and not model:
        return None
    if not url or not model:
        raise PllavaError(
            f"{URL if url else MODEL} is set, {MODEL if url else URL} is not. Set both for a judge, none for the offline scorer"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query:
        raise PllavaError(f"{URL} must be http(s)://host/path, without user, password or query. A key belongs in {KEY}")
    return Endpoint(url, model, os.environ.get(KEY, "").strip() or NO_KEY)  # local servers need no key


def make(settings: JudgeSettings) -> EndpointJudge:
    """The judge `endpoint` of pllava.judges. Raises PllavaError if the environment names no endpoint."""
    endpoint = endpoint_from_environment()
    if endpoint is None:
        raise PllavaError(f"judge.kind is endpoint, and no endpoint is named. Set {URL} and {MODEL}, or judge.kind: auto")
    return EndpointJudge(endpoint, settings)


class EndpointJudge:
    """A judge behind an endpoint. `score` may run in several threads."""

    measure = "judge: share of 'yes' (VideoQA, captions), score / 5 (VCGBench)"

    def __init__(self, endpoint: Endpoint, settings: JudgeSettings):
        self.endpoint = endpoint
        self.settings = settings
        self.name = f"judge {endpoint.model}"
        self.concurrency = settings.concurrency
        self.cache = ReplyCache(endpoint.model)
        self._chat = Chat(endpoint, settings.timeout_seconds)
        self._parameters = {settings.length_parameter: settings.max_tokens} | (
            {} if settings.temperature is None else {"temperature": settings.temperature}
        )  # of a request, besides model and messages; `_ask` adapts them to the endpoint
        self._refused: set[str] = set()  # parameters that the endpoint refuses in either spelling
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._request_locks: dict[str, threading.Lock] = {}  # by key: equal requests wait for the reply to the first
        self._usage = {"requests": 0, "cached": 0, "tokens_read": 0, "tokens_written": 0}

    def score(self, rubric: Rubric, **fields: str) -> Score:
        messages = rubric.messages(fields)
        suspicious = any(LOOKS_LIKE_A_VERDICT.search(fields[name]) for name in ("prediction", "second_prediction") if name in fields)
        key = prompt_sha256(messages)
        with self._lock:
            request_lock = self._request_locks.setdefault(key, threading.Lock())
        try:
            with request_lock:
                right, score = self._verdict(messages, key, rubric.decides, suspicious)
        except UnreadableReplyError as error:
            return Score(None, missing=str(error), suspicious=suspicious)
        return Score(float(right) if rubric.decides else score / BEST, correct=right, score=score, suspicious=suspicious)

    def nothing(self) -> Score:
        return Score(0.0, correct=False, score=0.0)

    def provenance(self) -> dict[str, Any]:
        all_rubrics = [value for value in vars(rubrics).values() if isinstance(value, Rubric)]
        return {
            "kind": "endpoint",
            "name": self.name,
            "model": self.endpoint.model,
            "measure": self.measure,
            "temperature": self._parameters.get("temperature"),
            "max_tokens": self.settings.max_tokens,
            "rubrics_sha256": prompt_sha256([{rubric.name: rubric.sha256()} for rubric in all_rubrics]),
        }

    def stop(self) -> None:
        self._stopped.set()

    def usage(self) -> dict[str, Any]:
        read, written = self.settings.price_per_million_tokens
        cost = (self._usage["tokens_read"] * read + self._usage["tokens_written"] * written) / 1e6
        return {**self._usage, "cost": round(cost, 6), "endpoint": self.endpoint.base_url}

    def _verdict(self, messages: list[dict[str, str]], key: str, decides: bool, alone: bool) -> tuple[bool, float]:
        """(right, score) from the cache, else from the first readable reply.

        alone: the verdict must be the whole reply. Raises UnreadableReplyError with the reason of the last failure.
        """
        if (known := self.cache.get(key)) is not None:
            self._count(cached=1)
            return parse(known["reply"], decides, alone)
        problem, wait = "", 0.0
        for attempt in range(self.settings.attempts):
            if self._stopped.wait(wait):
                break
            wait = min(LONGEST_WAIT, self.settings.backoff_seconds * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                reply, usage = self._ask(messages)
                verdict = parse(reply, decides, alone)
            except FailedError as error:
                problem, wait = str(error), max(wait, error.wait)
                if not error.retryable:
                    raise UnreadableReplyError(problem) from None
            except UnreadableReplyError as error:
                problem = f"unreadable reply: {error}"
            else:
                self.cache.put(key, reply, usage)  # unreadable replies are not cached, so the next run asks again
                return verdict
        raise UnreadableReplyError(f"{problem} ({self.settings.attempts} tries)")

    def _ask(self, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
        """(reply, token counts) of one request.

        If the endpoint refuses a parameter, the request is repeated with its OTHER_SPELLING. Later requests keep a spelling that works.
        Raises FailedError if the request fails, PllavaError if the set-up is wrong, so that every request would fail.
        """
        parameters, changed = dict(self._parameters), set[str]()
        while True:
            try:
                reply = self._request(messages, parameters)
            except RefusedError as error:
                parameter, other = _other_spelling(parameters, str(error), changed | self._refused)
                if parameter is None:
                    self._refused |= changed
                    raise
                parameters, changed = other, changed | {parameter, *other.keys() - parameters.keys()}
            else:
                self._parameters = parameters
                return reply

    def _request(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> tuple[str, dict[str, int]]:
        """(reply, token counts) of one request. Raises the errors of `Chat.complete`; a PllavaError ends all requests."""
        self._count(requests=1)
        try:
            reply, counted = self._chat.complete(messages, **parameters)
        except PllavaError:
            self.stop()
            raise
        self._count(**counted)
        return reply, counted

    def _count(self, **added: int) -> None:
        with self._lock:
            for name, number in added.items():
                self._usage[name] += number


def _other_spelling(parameters: dict[str, Any], refusal: str, tried: set[str]) -> tuple[str | None, dict[str, Any]]:
    """The parameter that the message `refusal` names, and the parameters with its other spelling; (None, parameters) if none is left."""
    for parameter, value in parameters.items():
        if re.search(rf"\b{parameter}\b", refusal) and parameter not in tried:
            rest = {name: value for name, value in parameters.items() if name != parameter}
            other = OTHER_SPELLING[parameter]
            return parameter, rest if other is None else {other: value} | rest
    return None, parameters
