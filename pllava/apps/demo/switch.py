"""Replaces the model of a running demo with another version, without a failed request.

The new model is loaded beside the old one and answers a trial question. Then it replaces the old model between two questions. When it gives
no answer, the old model stays.

    python -m pllava.apps.demo.switch --model models:/pllava/3 --params FILE     `pllava deploy` starts this: the page, and `watch`

`pllava deploy` writes a request to a file in .state/demo/ and waits for the reply in another. The files belong to the user who runs the
demo, so a visitor of the page cannot switch the model. While the new model loads, two models are in memory; `pllava deploy --restart` needs
memory for one.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.core.errors import PllavaError
from pllava.core.files import read_json, write_json
from pllava.core.hashing import code_sha256
from pllava.core.processes import HOME

if TYPE_CHECKING:
    from pllava.apps.demo.engine import ChatEngine

REQUEST, REPLY = HOME / "switch.json", HOME / "switched.json"
POLL = 0.1  # seconds
OF_THE_MODEL = ("chat", "source", "lora_alpha")  # attributes of an engine that a switch replaces; its lock and limits stay
OF_THE_PAGE = ("template", "turns")  # attributes of a ModelRef that the page was built for; other values need a new page


class NeedsRestart(PllavaError):
    """The running page was not built for this model; a new process must serve it."""


def request(number: int, facts: dict[str, Any], seconds: float, alive: Any) -> dict[str, Any]:
    """Ask the serving process for another version, wait, and return its reply.

    number: identifies the request. seconds: how long to wait. alive(): whether the serving process still runs.
    Raises PllavaError with the reason when the new version cannot serve; the old one goes on. Raises NeedsRestart when a new process can.
    """
    REPLY.unlink(missing_ok=True)
    write_json(REQUEST, facts | {"number": number})
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if REPLY.is_file() and (reply := read_json(REPLY))["number"] == number:
                if reply["state"] == "serving":
                    return reply
                raise (NeedsRestart if reply["state"] == "restart" else PllavaError)(reply["error"])
            if not alive():
                raise NeedsRestart("the process that served has ended")
            time.sleep(POLL)
        raise PllavaError(f"it was not ready within {seconds:.0f} s")
    finally:
        REQUEST.unlink(missing_ok=True)


def watch(engine: ChatEngine) -> None:
    """Answer requests for another version until the process ends."""
    while True:
        if REQUEST.is_file():
            try:
                wanted = read_json(REQUEST)
            except (FileNotFoundError, PllavaError):
                continue
            write_json(REPLY, {"number": wanted["number"]} | _reply(engine, wanted))
            while REQUEST.is_file() and _number() == wanted["number"]:  # `request` removes the file
                time.sleep(POLL)
        time.sleep(POLL)


def _reply(engine: ChatEngine, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"state": "serving", "answer": _switch(engine, wanted)}
    except NeedsRestart as error:
        return {"state": "restart", "error": str(error)}
    except PllavaError as error:
        return {"state": "failed", "error": str(error)}
    except Exception as error:  # any error of the new model; the old model goes on
        traceback.print_exc()
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"}


def _switch(engine: ChatEngine, wanted: dict[str, Any]) -> str:
    """Load the version, try it, and replace the model. Returns the answer to the trial question."""
    from pllava.apps.demo.engine import ChatEngine
    from pllava.core.params import load_params
    from pllava.registry.default_model import choose

    print(f"asked to serve {wanted['model']}", flush=True)
    source, current = choose(load_params(wanted["params"]), wanted["model"]), engine.source
    if current is not None:
        differs = [key for key in OF_THE_PAGE if getattr(source, key) != getattr(current, key)]
        if differs:
            raise NeedsRestart(f"{', '.join(differs)} differ from what the page was built for")
    chat = source.load()
    old = engine.chat.processor
    if (chat.processor.num_frames, tuple(chat.processor.pooling_shape)) != (old.num_frames, tuple(old.pooling_shape)):
        raise NeedsRestart("num_frames or pooling_shape differ from what the page was built for")
    fresh = ChatEngine(chat)
    answer = fresh.ask(wanted["clip"], wanted["question"])
    if not answer.strip():
        raise PllavaError(f"it gave an empty answer to {wanted['question']!r} about {wanted['clip']}")
    fresh.source = source
    with engine._lock:  # between two questions
        vars(engine).update({name: value for name, value in vars(fresh).items() if name in OF_THE_MODEL})
    gc.collect()
    print(f"serves {source.name}", flush=True)
    return answer


def _number() -> int | None:
    """The number of the request that is on disk; None when there is none."""
    try:
        return read_json(REQUEST)["number"]
    except (FileNotFoundError, PllavaError, KeyError):
        return None


def code() -> str:
    """A hash of this package's source. A process that runs other code must be restarted, not switched."""
    return code_sha256(".")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pllava.apps.demo.switch", description="Serve the chat page, open to `pllava deploy`")
    parser.add_argument("--model", required=True)
    parser.add_argument("--params", type=Path, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    from pllava.apps.demo.server import open_page
    from pllava.apps.web.auth import AUTH_VARIABLE
    from pllava.core.params import load_params

    REQUEST.unlink(missing_ok=True)
    try:
        params, auth = load_params(arguments.params), os.environ.get(AUTH_VARIABLE)
        page: Any = open_page(params, arguments.model, auth=auth, say=lambda text: print(text, flush=True))
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    watch(page.engine)


if __name__ == "__main__":
    main()
