"""The HTTP server: `build_app(chat, names, settings)`.

Bodies have a largest size, a client that disconnects stops the model, and the server fetches no address.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pllava.apps.serve.answering import Answerer
from pllava.apps.serve.errors import ApiError, bad, busy
from pllava.apps.serve.files import Files
from pllava.apps.serve.jobs import Event, Job, JobQueue
from pllava.apps.serve.metrics import Metrics
from pllava.apps.serve.protocol import ChatRequest, parse
from pllava.apps.serve.settings import ServeSettings, is_loopback
from pllava.apps.web.budget import WAIT, Body, Budget
from pllava.apps.web.origin import from_elsewhere
from pllava.apps.web.refused_body import RefusedBody
from pllava.core.errors import PllavaError
from pllava.model.familiarity import FAR
from pllava.video.readers import TIME_LIMIT, Readers

if TYPE_CHECKING:
    from pllava.chat import Answer, VideoChat

OPEN = {"/health"}  # paths that need no key


def build_app(chat: VideoChat, names: Sequence[str], settings: ServeSettings) -> FastAPI:
    """names: the names of the model that a request may use; the server lists the first."""
    # Other processes read the clips, so a clip that crashes its reader does not stop the server.
    readers = chat.readers = Readers(4, min(settings.timeout, TIME_LIMIT), settings.limits)
    budget = Budget(settings.max_bodies)
    files, jobs, metrics = Files(settings, readers, budget), JobQueue(settings.max_waiting), Metrics()
    uploading = asyncio.Lock()  # one upload is checked at a time, so that other readers are free for questions
    parsing = asyncio.Lock()  # one body is parsed at a time, because parsing takes several times its memory
    metrics.watch(jobs, chat.cache)
    answerer = Answerer(chat, files, metrics)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        readers.close()  # else a clip that is being read delays the end
        await run_in_threadpool(jobs.close)
        files.close()

    app = FastAPI(title="PLLaVA", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, settings=settings, metrics=metrics, budget=budget)
    app.add_middleware(RefusedBody)  # added last, so it is the outermost
    app.add_exception_handler(ApiError, lambda _, error: answer_error(error))  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, lambda _, error: answer_error(ApiError(error.status_code, str(error.detail))))  # type: ignore[attr-defined]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": names[0], "running": jobs.running, "waiting": jobs.waiting}

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [shown_model(names[0], created)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        check_model(name, names)
        return shown_model(names[0], created)

    @app.post("/v1/files")
    async def upload(request: Request) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(415, "an upload is multipart/form-data with a part named file", "file")
        async with request.form(max_files=1, max_fields=8) as form:
            part = form.get("file")
            if part is None or isinstance(part, str):
                raise bad("the form has no part named file", "file")
            async with uploading:
                request.scope["body"].release()
                return (await run_in_threadpool(files.add, part.file, part.filename or "")).shown()

    @app.get("/v1/files")
    async def list_files() -> dict[str, Any]:
        return {"object": "list", "data": [stored.shown() for stored in files.all()], "has_more": False}

    @app.get("/v1/files/{name}")
    async def show_file(name: str) -> dict[str, Any]:
        return files.get(name).shown()

    @app.delete("/v1/files/{name}")
    async def remove_file(name: str) -> dict[str, Any]:
        files.remove(name)
        return {"id": name, "object": "file", "deleted": True}

    def understood(parts: list[bytes]) -> ChatRequest:
        """The checked request of a body, its video on disk. Empties `parts`."""
        body = b"".join(parts)
        parts.clear()
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise bad(f"the body is no JSON: {error}") from None
        del body
        chat_request = parse(value, settings)
        check_model(chat_request.model, names)
        answerer.check(chat_request)
        return answerer.keep(chat_request)

    def submitted(chat_request: ChatRequest, work: Callable[[threading.Event], Iterator[Event]]) -> Job:
        """The queued job; its video goes with it."""
        path = chat_request.media.path
        try:
            job = jobs.submit(work)
        except ApiError:
            if path is not None:
                files.discard(path)
            raise
        if path is not None and job.future is not None:
            job.future.add_done_callback(lambda _: files.discard(path))
        return job

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        began = time.monotonic()
        jobs.check()
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the content type must be application/json")
        parts = [part async for part in request.stream()]  # not request.body(), which would stay in memory until the answer ends
        async with parsing:
            chat_request = await run_in_threadpool(understood, parts)
        request.scope["body"].release()
        job = submitted(chat_request, lambda cancel: answerer.work(chat_request, cancel, began))
        run = Run(chat_request, job, began, settings.timeout, request, metrics)
        try:
            await run.next()  # "ready"; an unreadable video raises here, so that a stream has an error status, too
            if chat_request.stream:
                return Streamed(run)
            while (event := await run.next())[0] != "done":
                pass
        except BaseException:
            job.abandon()
            raise
        return JSONResponse(run.completion(event[1]))

    return app


class Run:
    """A job with its deadline. It ends when the client disconnects."""

    def __init__(self, chat_request: ChatRequest, job: Job, began: float, timeout: float, request: Request, metrics: Metrics) -> None:
        self.chat_request, self.job, self.request, self.metrics = chat_request, job, request, metrics
        self.began, self.deadline = began, began + timeout
        self.leaving = asyncio.ensure_future(self._left())
        self.given_up = self.finished = False
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())

    async def next(self) -> Event:
        """The next event. Raises ApiError: the job's own error, 504 at the deadline, 499 when the client has disconnected."""
        waiting = asyncio.ensure_future(self.job.events.get())
        try:
            while not waiting.done():
                remaining = self.deadline - time.monotonic()  # seconds
                if remaining <= 0:
                    self.give_up("timeout")
                    raise ApiError(504, "the time of this request is over; ask for fewer tokens or send a shorter video", code="timeout")
                await asyncio.wait([waiting, self.leaving], timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done() and self.leaving.done():
                    self.give_up("disconnected")
                    raise ApiError(499, "the client left")
        finally:
            if not waiting.done():
                waiting.cancel()
        event = waiting.result()
        self.finished = event[0] in ("done", "error")
        if event[0] == "done":
            self.metrics.seconds.observe(time.monotonic() - self.began)
        if event[0] == "error":
            raise event[1] if isinstance(event[1], ApiError) else internal(event[1])
        return event

    async def _left(self) -> None:
        """Returns when the client disconnects, or has its answer."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    def give_up(self, reason: str) -> None:
        """Stop the job, and count the reason once."""
        if not self.given_up:
            self.given_up = True
            self.metrics.abandoned.labels(reason).inc()
        self.job.abandon()

    def completion(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return self._head("chat.completion") | {"choices": [choice], "usage": usage(answer)} | clip_facts(answer)

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None, facts: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        body = self._head("chat.completion.chunk") | {"choices": [choice]} | (facts or {})
        return sse(body | ({"usage": None} if self.chat_request.include_usage else {}))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.chat_request.model}

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.chunk({"role": "assistant", "content": ""})
        try:
            while (event := await self.next())[0] != "done":
                yield self.chunk({"content": event[1]})
        except ApiError as error:  # the response has begun, so its status stays 200
            yield sse(error.body)
            return
        answer = event[1]
        yield self.chunk({}, answer.finish_reason, clip_facts(answer))
        if self.chat_request.include_usage:
            yield sse(self._head("chat.completion.chunk") | {"choices": [], "usage": usage(answer)})
        yield b"data: [DONE]\n\n"


class Streamed(StreamingResponse):
    """Server-sent events. The model stops when the response ends early."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.chunks(), media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.run.finished:
                self.run.give_up("disconnected")


def sse(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(answer: Answer) -> dict[str, int]:
    completion = len(answer.token_ids)
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": completion, "total_tokens": answer.prompt_tokens + completion}


def clip_facts(answer: Answer) -> dict[str, Any]:
    """Whether the clip is unlike the clips that the model was trained on; {} where the model has no statistics of them."""
    if (clip := answer.distance) is None:
        return {}
    facts = {"far": clip.far, "distance": round(clip.distance, 4), "threshold": round(clip.threshold, 4)}
    return {"pllava": facts | ({"warning": FAR} if clip.far else {})}


def shown_model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "pllava"}


def check_model(name: str, names: Sequence[str]) -> None:
    """Raises ApiError 404 for a model that is not served."""
    if name not in names:
        raise ApiError(404, f"the model {name[:100]!r} is not served here; {names[0]!r} is", "model", "model_not_found")


def internal(error: BaseException) -> ApiError:
    """503 for a cancelled job, 500 for a bug: the client sees its type, the log all of it."""
    if isinstance(error, PllavaError):
        return ApiError(503, str(error), code="cancelled")
    return ApiError(500, f"the model failed: {type(error).__name__}", code="internal_error")


def answer_error(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


class Guard:
    """ASGI middleware: checks the key or the origin, limits the size of each body and of all together, and counts responses.

    The application finds the body's part of the budget in scope["body"], and may release it before it answers.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, budget: Budget | None = None) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.budget = budget or Budget(settings.max_bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        read, more_body, deadline = 0, True, time.monotonic() + self.settings.timeout
        body = scope["body"] = Body(self.budget)

        async def counted() -> Message:
            nonlocal read, more_body
            try:
                async with asyncio.timeout(deadline - time.monotonic() if more_body else None):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"the body took longer than {self.settings.timeout:g} s", code="timeout") from None
            read += len(message.get("body", b""))
            if read > self.settings.max_body:
                raise self._large()
            more_body = message.get("more_body", False)
            if more_body and not body.hold(read):
                raise self._full()
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    body.release()  # the rest of the body is dropped as it comes
                self.metrics.requests.labels(self._route(scope["path"]), str(message["status"])).inc()
            await send(message)

        try:
            self._check(scope, headers)
            if not body.hold(int(headers.get(b"content-length", b"0"))):
                raise self._full()
            await self.app(scope, counted, noted)
        except ClientDisconnect:
            pass  # nobody waits for a response
        except ApiError as error:
            with suppress(RuntimeError):  # the response has begun already
                await answer_error(error)(scope, receive, noted)
        finally:
            body.release()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        key = self.settings.api_key
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if key is None or not (scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), key.encode())):
            if key is not None and scope["path"] not in OPEN:
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            # A foreign page in a browser on this machine must not ask, neither under its own host name nor from its own origin.
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
            if is_loopback(self.settings.host) and not is_loopback(name):
                raise ApiError(403, "without a key this server answers to 127.0.0.1 and localhost only")
            if from_elsewhere(scope):
                raise ApiError(403, "without a key this server takes nothing from a web page of another origin")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.settings.max_body:
            raise self._large()

    def _large(self) -> ApiError:
        return ApiError(413, f"the body is larger than the {self.settings.max_body:,} bytes this server reads", code="file_too_large")

    def _full(self) -> ApiError:
        return busy(f"the bodies under way have {self.budget.taken:,} bytes; try again in {WAIT} s", WAIT, "bodies_full")

    @staticmethod
    def _route(path: str) -> str:
        """The label of a path in the metrics; unknown paths share one, so that labels stay few."""
        known = ("/v1/chat/completions", "/v1/models", "/v1/files", "/health", "/metrics")
        return next((route for route in known if path.startswith(route)), "other")
