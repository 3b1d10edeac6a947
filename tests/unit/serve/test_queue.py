"""One request is answered at a time, in the order of arrival; as many wait as the server allows, and who leaves makes room."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign_page import served

import pllava
from pllava.apps.serve.errors import ApiError
from pllava.apps.serve.jobs import Event, Job, JobQueue
from pllava.apps.serve.server import build_app
from pllava.apps.serve.settings import ServeSettings

Work = Callable[[threading.Event], Iterator[Event]]
SECONDS = 30.0  # until a test that waits for nothing fails


class Doors:
    """Work that begins, and ends when its door is opened or the job is cancelled. `began`: names in order."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.doors: dict[str, threading.Event] = {}

    def work(self, name: str) -> Work:
        door = self.doors[name] = threading.Event()

        def run(cancel: threading.Event) -> Iterator[Event]:
            self.began.append(name)
            yield "ready", None
            while not (door.wait(0.005) or cancel.is_set()):
                pass
            yield "done", "cancelled" if cancel.is_set() else name

        return run


async def end(job: Job) -> Any:
    """What the job's "done" event holds."""
    while (event := await asyncio.wait_for(job.events.get(), SECONDS))[0] != "done":
        pass
    return event[1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def in_queue(max_waiting: int, test: Callable[[JobQueue, Doors], Awaitable[None]]) -> None:
    """Run `test` with a queue that is closed at the end."""

    async def run() -> None:
        queue, doors = JobQueue(max_waiting), Doors()
        try:
            await test(queue, doors)
        finally:
            for door in doors.doors.values():
                door.set()
            await asyncio.to_thread(queue.close)

    asyncio.run(run())


@pytest.mark.parametrize("max_waiting", [0, 1, 3])
def test_as_many_wait_as_allowed_and_the_next_is_refused(max_waiting: int) -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        queue.submit(doors.work("running"))
        await until(lambda: queue.running == 1)
        for number in range(max_waiting):
            queue.submit(doors.work(f"waiting {number}"))
        assert queue.waiting == max_waiting
        with pytest.raises(ApiError, match=f"{max_waiting + 1} requests are waiting or answered") as refused:
            queue.submit(doors.work("one too many"))
        assert refused.value.status == 429
        assert queue.waiting == max_waiting

    in_queue(max_waiting, test)


def test_a_refused_request_is_told_when_to_come_again() -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        queue.submit(doors.work("running"))
        with pytest.raises(ApiError) as refused:
            queue.submit(doors.work("one too many"))
        assert int(refused.value.headers["Retry-After"]) >= 1

    in_queue(0, test)


def test_requests_are_answered_in_the_order_of_arrival_one_at_a_time() -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        names = [str(number) for number in range(6)]
        jobs = {name: queue.submit(doors.work(name)) for name in names}
        for number, name in enumerate(names):
            await until(lambda: name in doors.began)  # noqa: B023
            assert (queue.running, doors.began) == (1, names[: number + 1])
            doors.doors[name].set()
            assert await end(jobs[name]) == name

    in_queue(9, test)


def test_a_cancelled_request_gives_its_place_to_another_and_is_never_answered() -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        running = queue.submit(doors.work("running"))
        await until(lambda: queue.running == 1)
        queue.submit(doors.work("leaves")).abandon()
        assert queue.waiting == 0
        job = queue.submit(doors.work("takes its place"))
        for name in ("running", "takes its place"):
            doors.doors[name].set()
        assert [await end(running), await end(job)] == ["running", "takes its place"]
        assert doors.began == ["running", "takes its place"]

    in_queue(1, test)


def test_a_cancelled_answer_stops_in_the_middle() -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        job = queue.submit(doors.work("stops"))
        await until(lambda: queue.running == 1)
        job.abandon()
        assert await end(job) == "cancelled"

    in_queue(0, test)


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_ended_makes_room(fails: bool) -> None:
    def fail(cancel: threading.Event) -> Iterator[Event]:
        raise ApiError(400, "no video")
        yield

    async def test(queue: JobQueue, doors: Doors) -> None:
        for number in range(3):
            work = fail if fails else doors.work(str(number))
            job = queue.submit(work)
            if not fails:
                doors.doors[str(number)].set()
            kinds = []
            while not kinds or kinds[-1] not in ("done", "error"):
                kinds.append((await asyncio.wait_for(job.events.get(), SECONDS))[0])
            await until(lambda: queue.taken == 0)
            assert (kinds[-1], queue.running, queue.waiting) == ("error" if fails else "done", 0, 0)

    in_queue(0, test)


def test_closing_stops_the_running_answer_and_drops_the_waiting_ones() -> None:
    async def test(queue: JobQueue, doors: Doors) -> None:
        running = queue.submit(doors.work("running"))
        await until(lambda: queue.running == 1)
        queue.submit(doors.work("waiting"))
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        assert await end(running) == "cancelled"
        await closing
        assert doors.began == ["running"]

    in_queue(1, test)


def test_the_server_lets_as_many_wait_as_its_settings_say(tiny_model: Any, tiny_processor: Any, reference: Path) -> None:
    """None here, so the second request is refused while the first is answered."""
    import base64

    clip = base64.b64encode((reference / "video" / "clip_short.mp4").read_bytes()).decode()
    content = [{"type": "input_video", "input_video": {"data": clip}}, {"type": "text", "text": "Where is it now?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 3000, "stream": True}
    chat = pllava.VideoChat(tiny_model, tiny_processor, template="vicuna")
    with served(build_app(chat, ["tiny"], ServeSettings(max_waiting=0, max_new_tokens=3000))) as url:
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as running:
            assert running.readline().startswith(b"data: ")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=SECONDS)
    assert refused.value.code == 429
    assert int(refused.value.headers["Retry-After"]) >= 1
