"""Serve the champion in the background: `pllava deploy`, `pllava stop`.

A version must answer one question about a held-out clip within the time limit. When a page serves already, the new version is loaded
beside the old one and replaces it after its answer (switch.py): no request fails. When the new version does not answer, the old one goes
on serving and the alias `champion` moves back. A new process is started when nothing serves, when the code or the page has changed, or
with `restart`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import yaml

from pllava.apps.demo import switch
from pllava.apps.demo.samples import Sample, first_sample
from pllava.apps.web.auth import AUTH_VARIABLE, read_auth, require_auth_beyond_loopback
from pllava.core import processes as process
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, state_folder
from pllava.core.params import Params
from pllava.registry.default_model import champion
from pllava.registry.promote import adopt
from pllava.services import supervisor
from pllava.services.stack import recorded as recorded_stack
from pllava.tracking.store import project_root

POLL = 0.25  # seconds


@dataclass(frozen=True)
class Deployment:
    """The version that serves, and its trial: `question`, about the held-out `clip`, and `answer`. restarted: is the process new?"""

    url: str
    model: str
    version: int
    pid: int
    clip: str
    question: str
    answer: str
    restarted: bool

    def describe(self) -> str:
        state = "now serves" if self.restarted else "serves"
        return (
            f"{self.url} {state} {self.model} version {self.version} (process {self.pid})\n{self.clip}: {self.question}\n-> {self.answer}"
        )


def deploy(params: Params, restart: bool = False) -> Deployment:
    """Serve the champion; do nothing when it serves already. restart: start a new process in any case.

    Raises PllavaError without a change: no champion, no held-out clip, a port held by another process, deploy.host beyond loopback without
    a password. Raises PllavaError when the champion does not answer: then the previous champion is champion again and serves again.
    """
    from filelock import FileLock

    state_folder(process.HOME)
    with FileLock(process.HOME / "deploy.lock"):  # two deployments at once would fight over the port
        return _deploy(_with_stack_port(params), restart)


def stop_demo() -> int | None:
    """End the process that `deploy` started and return its pid; None when none is running."""
    return process.stop()


def _with_stack_port(params: Params) -> Params:
    """The params with the demo's port of `make up`, while its services run.

    The recorded stack alone does not count: the record may be older than the last start of the machine.
    """
    stack = recorded_stack(project_root())
    if stack is None or supervisor.connect(stack.root) is None:
        return params
    return params.model_copy(update={"deploy": params.deploy.model_copy(update={"port": stack.demo_port})})


def _deploy(params: Params, restart: bool) -> Deployment:
    require_auth_beyond_loopback(params.deploy.host, read_auth(os.environ.get(AUTH_VARIABLE)))
    version = champion(params)
    if version is None:
        raise PllavaError(f"{params.registry.model_name} has no champion to serve. Run: pllava register && pllava gate && pllava promote")
    adopt(params)
    number, digest = int(version.version), version.tags.get("adapter_sha256")
    wanted = {"version": number, "adapter_sha256": digest, "model": params.registry.model_name}
    running = process.recorded()
    same_address = running is not None and (running["host"], running["port"]) == (params.deploy.host, params.deploy.port)
    serving = bool(running and same_address and running["state"] == "serving") and not restart
    if running and serving and _serves(running["url"], wanted):
        return _deployment(running, restarted=False)
    if not same_address:
        process.require_free_port(
            params.deploy.host, params.deploy.port, "Set another deploy.host or deploy.port in params.yaml; then: pllava deploy"
        )
    clip = first_sample(params)
    if running and serving and running.get("code") == switch.code():
        try:
            return _deployment(_switch(params, running, wanted, clip), restarted=False)
        except switch.NeedsRestart as error:
            print(f"a new process is needed: {error}", file=sys.stderr)
        except PllavaError as error:
            raise PllavaError(f"{wanted['model']} version {number} does not serve: {error}\n{_roll_back(params, clip, running)}") from None
    process.stop()
    try:
        return _deployment(_start(params, wanted, clip), restarted=True)
    except PllavaError as error:
        process.stop()
        raise PllavaError(f"{wanted['model']} version {number} does not serve: {error}\n{_roll_back(params, clip)}") from None


def _start(params: Params, wanted: dict[str, Any], clip: Sample) -> dict[str, Any]:
    """Start the page in a session of its own, wait until it serves, and ask it the trial question. Returns its record.

    Raises PllavaError with the end of the page's log.
    """
    deadline = time.monotonic() + params.deploy.timeout_seconds
    settings = _settings(params)
    command = [
        sys.executable,
        "-m",
        "pllava.apps.demo.switch",
        "--model",
        f"models:/{wanted['model']}/{wanted['version']}",
        "--params",
        str(settings),
    ]
    url = f"http://{params.deploy.host}:{params.deploy.port}"
    state_folder(process.LOG.parent)
    with process.LOG.open("wb") as log:
        process.LOG.chmod(0o600)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    facts = {**wanted, "host": params.deploy.host, "port": params.deploy.port, "url": url, "log": str(process.LOG), "code": switch.code()}
    process.record(psutil.Process(child.pid), state="starting", **facts)  # recorded now, so that `pllava stop` finds it after an interrupt
    while not _serves(url, wanted):
        if child.poll() is not None:
            raise PllavaError(f"it ended with code {child.returncode}. {process.end_of_log()}")
        if time.monotonic() > deadline:
            raise PllavaError(f"it did not come up within {params.deploy.timeout_seconds} s. {process.end_of_log()}")
        time.sleep(POLL)
    answer = _ask(url, clip, deadline - time.monotonic())
    trial = {"clip": str(clip.media), "question": clip.question, "answer": answer}
    return process.record(psutil.Process(child.pid), state="serving", **facts, **trial)


def _settings(params: Params) -> Path:
    """Write the params to a file for the page, and return its path. They may differ from params.yaml."""
    settings = process.HOME / "params.yaml"
    atomic_write_text(settings, yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False))
    return settings


def _switch(params: Params, running: dict[str, Any], wanted: dict[str, Any], clip: Sample) -> dict[str, Any]:
    """Load the version into the serving process; return the new record. Raises PllavaError without an answer: the old one serves on."""
    request = {
        "model": f"models:/{wanted['model']}/{wanted['version']}",
        "params": str(_settings(params)),
        "clip": str(clip.media),
        "question": clip.question,
    }
    reply = switch.request(time.time_ns(), request, params.deploy.timeout_seconds, lambda: process.recorded() is not None)
    facts = {key: value for key, value in running.items() if key not in ("pid", "created")}
    trial = {"clip": str(clip.media), "question": clip.question, "answer": reply["answer"]}
    return process.record(psutil.Process(running["pid"]), **(facts | wanted | trial))


def _roll_back(params: Params, clip: Sample, running: dict[str, Any] | None = None) -> str:
    """Make the previous champion champion again and serve it. Returns a sentence about the outcome.

    running: the record of a process that still serves; None: a new process is started.
    """
    from pllava.registry import rollback

    stays = f"Version {running['version']} goes on serving at {running['url']}" if running else ""
    try:
        back = rollback(params)
    except PllavaError as error:
        return f"{stays}; the alias stays where it is: {error}" if running else f"Nothing serves now: {error}"
    if running and back.version == running["version"]:
        return f"{stays} and is champion again"
    version = champion(params)
    wanted = {"version": back.version, "adapter_sha256": version.tags.get("adapter_sha256") if version else None, "model": back.name}
    again = f"Version {back.version} is champion again"
    try:
        entry = _switch(params, running, wanted, clip) if running else _start(params, wanted, clip)
    except PllavaError as error:
        if running:
            return f"{stays}. {again}, but does not serve either: {error}"
        process.stop()
        return f"{again}, but it does not serve either: {error}"
    return f"{again} and serves at {entry['url']}"


def _ask(url: str, clip: Sample, seconds: float) -> str:
    """Ask the page one question through its public endpoint. Returns the answer; raises PllavaError when there is none within `seconds`."""
    from gradio_client import Client, handle_file

    try:
        login = read_auth(os.environ.get(AUTH_VARIABLE))
        client = Client(url, auth=login, verbose=False, httpx_kwargs={"trust_env": False}, analytics_enabled=False)
        job = client.submit(handle_file(clip.media), clip.question, api_name="/ask")
        answer = job.result(timeout=max(1.0, seconds))
    except Exception as error:  # any error means that the deployment did not answer: the caller rolls back
        raise PllavaError(
            f"it came up but did not answer {clip.question!r} about {clip.media}: {type(error).__name__}: {error}. {process.end_of_log()}"
        ) from error
    if not isinstance(answer, str) or not answer.strip():
        raise PllavaError(f"it came up but gave an empty answer to {clip.question!r} about {clip.media}")
    return answer


def _logged_in(url: str) -> urllib.request.OpenerDirector:
    """An opener that is logged in where the page asks for a password. It uses no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    if login := read_auth(os.environ.get(AUTH_VARIABLE)):
        form = urlencode(dict(zip(("username", "password"), login, strict=True))).encode()
        opener.open(f"{url}/login", form, timeout=5).close()
    return opener


def _serves(url: str, wanted: dict[str, Any]) -> bool:
    """Does the page at `url` answer, and with this version and these weights?"""
    endpoint = f"{url}/gradio_api/call/version"
    request = urllib.request.Request(endpoint, data=b'{"data": []}', headers={"Content-Type": "application/json"})
    try:
        opener = _logged_in(url)
        with opener.open(request, timeout=5) as response:
            event = json.load(response)["event_id"]
        with opener.open(f"{endpoint}/{event}", timeout=5) as response:  # server-sent events; the last one holds the result
            data = [line.removeprefix(b"data: ") for line in response.read().splitlines() if line.startswith(b"data: ")]
        served = json.loads(data[-1])[0]
        return all(served[key] == wanted[key] for key in ("version", "adapter_sha256"))
    except (OSError, KeyError, IndexError, TypeError, ValueError):  # URLError is an OSError
        return False  # not up yet, or not our page


def _deployment(entry: dict[str, Any], restarted: bool) -> Deployment:
    keys = ("url", "model", "version", "pid", "clip", "question", "answer")
    return Deployment(**{key: entry[key] for key in keys}, restarted=restarted)
