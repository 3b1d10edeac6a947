"""One request to an OpenAI-compatible endpoint, bounded in time and size, through the official client.

    reply, usage = Chat(Endpoint("http://127.0.0.1:8000/v1", "qwen", "none"), timeout_seconds=60).complete(messages, max_tokens=200)

The endpoint is not trusted: whatever it sends, `complete` ends within the time limit, holds at most LARGEST_REPLY bytes and raises one
sentence. Redirects are not followed, so questions and the key go to no other address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pllava.core.errors import PllavaError

URL, MODEL, KEY = "PLLAVA_JUDGE_BASE_URL", "PLLAVA_JUDGE_MODEL", "PLLAVA_JUDGE_API_KEY"
NO_KEY = "none"
LONGEST_SENTENCE = 300  # characters of an endpoint's error message
LARGEST_REPLY = 1 << 20  # bytes; a verdict has about a hundred, reasoning some thousands
LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
MOST_TOKENS = 1 << 40  # that a reply may count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    model: str
    key: str = field(repr=False)


class FailedError(Exception):
    """A failed request. wait: seconds that the server asks the client to wait. retryable: whether another try can succeed."""

    def __init__(self, problem: str, wait: float = 0.0, retryable: bool = True):
        super().__init__(problem)
        self.wait = wait
        self.retryable = retryable


class RefusedError(FailedError):
    """The endpoint refuses the request itself (status 400 or 422)."""


class Chat:
    """Requests to one endpoint. `complete` may run in several threads."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float):
        try:
            import openai
        except ImportError:
            raise PllavaError("a judge needs the package openai. Install it: pip install 'pllava[judge]'") from None
        self.endpoint = endpoint
        self.timeout_seconds = timeout_seconds
        self._named: set[str] = set()  # models that replies name, besides the requested one
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.key,
            timeout=timeout_seconds,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_bound]}),
        )

    def complete(self, messages: list[dict[str, str]], **parameters: Any) -> tuple[str, dict[str, int]]:
        """(reply, token counts) of one request.

        Raises FailedError; RefusedError for status 400 or 422; PllavaError if the set-up is wrong, so that every request would fail.
        """
        import openai

        try:
            response = asyncio.run_coroutine_threadsafe(self._send(messages, parameters), _loop()).result()
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise PllavaError(
                f"the judge at {self.endpoint.base_url} refuses model {self.endpoint.model!r} with status {error.status_code}"
                f"{self._sentence(error)}. "
                f"Check {URL}, {MODEL} and {KEY}; answers are kept, so only judging is repeated"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code < 400:
                target = self._line(error.response.headers.get("location", "nowhere"))
                raise FailedError(f"a redirect to {target}, which is not followed: check {URL}", retryable=False) from None
            retryable = error.status_code in (408, 409, 425, 429) or error.status_code >= 500
            kind = RefusedError if error.status_code in (400, 422) else FailedError
            raise kind(f"status {error.status_code}{self._sentence(error)}", _retry_after(error), retryable) from None
        except (openai.APITimeoutError, TimeoutError):
            raise FailedError(f"no whole reply within {self.timeout_seconds:g} s") from None
        except FailedError:
            raise
        except Exception as error:  # the connection broke: errors of the client, or of its transport; or of `_bound`
            raise error.__cause__ if isinstance(error.__cause__, FailedError) else FailedError(type(error).__name__) from None
        return self._content(response)

    async def _send(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Any:
        """The response. The client limits the time of one read only; this limits the time of everything, headers and errors included."""
        async with asyncio.timeout(self.timeout_seconds):
            return await self._client.chat.completions.with_raw_response.create(
                model=self.endpoint.model,
                messages=messages,  # type: ignore[arg-type]
                **parameters,
            )

    def _content(self, response: Any) -> tuple[str, dict[str, int]]:
        """(reply, token counts) in a response. Raises FailedError."""
        try:
            completion = json.loads(response.content)
            content, usage = completion["choices"][0]["message"]["content"], completion.get("usage") or {}
            usage_fields = {"tokens_read": "prompt_tokens", "tokens_written": "completion_tokens"}
            # A server may omit either number.
            counted = {
                name: usage[field]
                for name, field in usage_fields.items()
                if type(usage.get(field)) is int and 0 <= usage[field] < MOST_TOKENS
            }
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError):
            kind = self._line(response.headers.get("content-type", "of no type"))
            raise FailedError(f"a body that is no chat completion ({kind})") from None
        if not isinstance(content, str):
            raise FailedError("a reply without text")
        self._check_model(completion.get("model"))
        return content.encode(errors="replace").decode(), counted  # JSON can hold half a character, files cannot

    def _check_model(self, name: Any) -> None:
        """Warn once of each model that a reply names and that was not requested. Gateways use other names, so this is no failure."""
        if isinstance(name, str) and name != self.endpoint.model and name not in self._named and len(self._named) < 5:
            self._named.add(name)
            log.warning("the judge replies as model %r, requested was %r: check %s", self._line(name), self.endpoint.model, MODEL)

    def _sentence(self, error: Any) -> str:
        """The error message of the endpoint on one line, after a colon and without the key; "" if it sent no message."""
        message = error.body.get("message") or error.body.get("detail") or error.body if isinstance(error.body, dict) else error.body
        message = message if isinstance(message, str) else json.dumps(message) if message else ""
        line = self._line(message).rstrip(".")
        return f": {'a web page' if line.startswith('<') else line}" if line else ""

    def _line(self, text: str) -> str:
        """Foreign text as one printable line of at most LONGEST_SENTENCE characters, without the key."""
        text = text if self.endpoint.key == NO_KEY else text.replace(self.endpoint.key, "***")
        text = "".join(character if character.isprintable() else " " for character in text[: 10 * LONGEST_SENTENCE])
        return " ".join(text.split())[:LONGEST_SENTENCE]


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own. Only a loop can end a request at a deadline, wherever it waits."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judge", daemon=True).start()
    return loop


async def _bound(response: Any) -> None:
    """Let the body of a response, error or not, end with a FailedError behind LARGEST_REPLY bytes."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # a megabyte may unpack to many gigabytes
        raise FailedError(f"a compressed reply ({encoding[:20]!r}), which was not requested")
    response.stream = _bounded_stream()(response.stream)


@cache
def _bounded_stream() -> Any:
    """The class of a body of at most LARGEST_REPLY bytes. It is made at first use: the client's package is optional."""
    from httpx2 import AsyncByteStream

    class BoundedStream(AsyncByteStream):
        def __init__(self, stream: AsyncByteStream):
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > LARGEST_REPLY:
                    raise FailedError(f"a reply of more than {LARGEST_REPLY:,} bytes")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    return BoundedStream


def _retry_after(error: Any) -> float:
    """Seconds in the header retry-after, at most LONGEST_WAIT; 0 if the header is absent or a date."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(error.response.headers.get("retry-after", 0))))
    except ValueError:  # a date
        return 0.0
