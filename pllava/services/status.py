"""`make status`: which services run, since when, and at which address."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pllava.core import processes as demo_process
from pllava.core.errors import without_passwords
from pllava.services import stack as stacks
from pllava.services import supervisor
from pllava.services.demo import REASON_FILE
from pllava.services.health import answers
from pllava.services.programs import programs
from pllava.services.stack import LOGIN, LOGS, Stack

WORDS = {"BACKOFF": "dies and is restarted", "FATAL": "given up"}  # supervisor's other states are shown in lower case


def status(root: Path) -> str:
    """A table with one line for each service: state, process, time since its start, address."""
    root = root.resolve()
    running = supervisor.connect(root)
    stack = stacks.recorded(root)
    if running is None or stack is None:
        demo = demo_process.recorded()
        alone = f"\nthe demo alone runs at {demo['url']} ({demo['model']} version {demo['version']})" if demo else ""
        return f"no services run. Start them: make up{alone}"
    states = supervisor.states(running)
    rows = [("service", "state", "process", "up", "address")]
    for program in programs(stack):
        info = states.get(program.name, {"statename": "UNKNOWN", "pid": 0, "start": 0, "now": 0})
        state = WORDS.get(info["statename"], info["statename"].lower())
        if info["statename"] == "RUNNING" and program.health and not answers(program.health):
            state = "running, does not answer"
        alive = info["statename"] == "RUNNING"
        up = str(timedelta(seconds=info["now"] - info["start"])) if alive else ""
        rows.append((program.name, state, str(info["pid"] or ""), up, _address(stack, program.name)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"logs: {LOGS}/"])


def addresses(root: Path) -> str:
    """The addresses of the services, as text that `up` shows. The stack must be recorded."""
    stack = stacks.recorded(root)
    assert stack is not None
    names = {"prefect": "flows: start, watch, schedule", "mlflow": "runs and model versions", "demo": "ask the champion"}
    lines = [f"{name:<8} {_address(stack, name):<44} {what}" for name, what in names.items()]
    login = f"{'login':<8} {f'cat {LOGIN}':<44} what Prefect's page asks for"
    return "\n".join([*lines, login, f"logs     {LOGS}/", "stop     make down"])


def _address(stack: Stack, name: str) -> str:
    if name != "demo":
        return {"prefect": stack.prefect_url, "mlflow": without_passwords(stack.mlflow_url)}.get(name, "")
    demo = demo_process.recorded()
    if demo is None:
        return REASON_FILE.read_text().splitlines()[0] if REASON_FILE.is_file() else "not served yet"
    return f"{demo['url']} ({demo['model']} version {demo['version']})"
