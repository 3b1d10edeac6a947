"""Another version in the process that serves, without a request that fails: the new model is loaded beside the old one, answers the trial
question, and takes its place between two questions. When it does not answer, nothing has changed.

    python -m pllava.apps.demo.switch --model models:/pllava/3 --params FILE     what `pllava deploy` starts: the page, and this

`pllava deploy` leaves a request in .state/demo/ and waits for the reply beside it: files of the user who runs the demo, so nobody who can
reach the page can ask for another model. For the time of loading there are two models in memory; `pllava deploy --restart` needs one.
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
OF_THE_MODEL = ("chat", "source", "lora_alpha")  # of an engine; the rest, like its lock and limits, stays
OF_THE_PAGE = ("template", "turns")  # what the page was built for: another one needs a new page


class NeedsRestart(PllavaError):
    """The page that serves cannot show this model."""


def request(number: int, facts: dict[str, Any], seconds: float, alive: Any) -> dict[str, Any]:
    """Ask the serving process for another version and wait; its reply. `alive()`: does it still run?

    Raises PllavaError with the reason when the version does not serve: then the old one still does. NeedsRestart: only a new process can.
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
    """Serve requests for another version, for ever."""
    while True:
        if REQUEST.is_file():
            try:
                wanted = read_json(REQUEST)
            except (FileNotFoundError, PllavaError):
                continue
            write_json(REPLY, {"number": wanted["number"]} | _reply(engine, wanted))
            while REQUEST.is_file() and _number() == wanted["number"]:  # it is taken away by who put it there
                time.sleep(POLL)
        time.sleep(POLL)


def _reply(engine: ChatEngine, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"state": "serving", "answer": _switch(engine, wanted)}
    except NeedsRestart as error:
        return {"state": "restart", "error": str(error)}
    except PllavaError as error:
        return {"state": "failed", "error": str(error)}
    except Exception as error:  # whatever is wrong with the new model, the old one goes on
        traceback.print_exc()
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"}


def _switch(engine: ChatEngine, wanted: dict[str, Any]) -> str:
    """Load, try, replace; the answer to the trial question."""
    from pllava.apps.demo.engine import ChatEngine
    from pllava.core.params import load_params
    from pllava.registry.default_model import choose

    print(f"asked to serve {wanted['model']}", flush=True)
    source, now = choose(load_params(wanted["params"]), wanted["model"]), engine.source
    if now is not None:
        differs = [key for key in OF_THE_PAGE if getattr(source, key) != getattr(now, key)]
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
    try:
        return read_json(REQUEST)["number"]
    except (FileNotFoundError, PllavaError, KeyError):
        return None


def code() -> str:
    """One hash of this package's source: a process that runs other code must be restarted, not switched."""
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
