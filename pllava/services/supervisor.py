"""supervisord keeps the services running. This module writes its settings, starts it, and connects to its socket, which only this user can
open."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_write_text, state_folder
from pllava.services.bridge import mlflow_environment as webhook_environment
from pllava.services.programs import Program, programs
from pllava.services.stack import LOGS, STATE, Stack

HOME = STATE / "supervisor"
LONGEST_SOCKET = 100  # bytes; the system allows 108, and supervisor adds a suffix


def socket_path(root: Path) -> Path:
    """The socket in the project folder, or in the folder for temporary files when the project's path is too long for a socket."""
    inside = root / HOME / "supervisor.sock"
    if len(os.fsencode(inside)) < LONGEST_SOCKET - 10:
        return inside
    return Path(tempfile.gettempdir()) / f"pllava-{os.getuid()}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}.sock"


def write_settings(stack: Stack) -> Path:
    """Write supervisord.conf and return its path. It holds no secrets: services inherit those from the environment."""
    if refused := [mark for mark in ("%", " ;", '"', "\n") if mark in str(stack.root)]:
        raise PllavaError(f"supervisord cannot work in {stack.root}: move the project to a folder without {refused[0]!r} in its name")
    home = stack.root / HOME
    state_folder(home)
    state_folder(stack.root / LOGS)
    socket = socket_path(stack.root)
    sections = [
        _section("unix_http_server", file=socket, chmod="0700"),
        _section(
            "supervisord",
            logfile=stack.root / LOGS / "supervisor.log",
            logfile_maxbytes="5MB",
            logfile_backups=1,
            pidfile=home / "supervisord.pid",
            childlogdir=stack.root / LOGS,
            directory=stack.root,
            umask="077",  # of its logs
        ),
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        _section("supervisorctl", serverurl=f"unix://{socket}"),
        *(_program(stack, number, program) for number, program in enumerate(programs(stack))),
    ]
    target = home / "supervisord.conf"
    atomic_write_text(target, "\n".join(sections))
    return target


def start(stack: Stack) -> None:
    """Start supervisord in the background; it starts no service by itself. Raises PllavaError with its output."""
    settings = write_settings(stack)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(settings)],
        env={**os.environ, **stack.environment(), **stack.login(), **webhook_environment(stack.root)},  # secrets: in no file
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    deadline = time.monotonic() + 15
    while connect(stack.root) is None:
        if done.returncode or time.monotonic() > deadline:
            raise PllavaError(f"supervisord does not start: {(done.stderr or done.stdout).strip() or f'see {stack.root / LOGS}'}")
        time.sleep(0.1)


def connect(root: Path) -> Any | None:
    """The remote interface of supervisord (the methods of its XML-RPC API), or None when supervisord does not run."""
    from supervisor.xmlrpc import SupervisorTransport

    if not (socket := socket_path(root)).exists():
        return None
    proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{socket}"))
    try:
        proxy.supervisor.getState()
    except (OSError, xmlrpc.client.Error):
        return None
    return proxy.supervisor


def states(supervisor: Any) -> dict[str, dict[str, Any]]:
    """{program: {"statename", "pid", "start", "now", "spawnerr", ...}}"""
    return {info["name"]: info for info in supervisor.getAllProcessInfo()}


def _program(stack: Stack, number: int, program: Program) -> str:
    environment = ",".join(f'{name}="{_literal(value)}"' for name, value in {**stack.environment(), **program.environment}.items())
    return _section(
        f"program:{program.name}",
        command=_literal(shlex.join(program.command)),
        environment=environment,
        directory=_literal(str(stack.root)),
        priority=10 * number,
        autostart="false",  # up.py starts the services in order
        autorestart="true",
        umask=f"{program.umask:03o}",
        startsecs=2,
        startretries=3,
        stopwaitsecs=program.stop_seconds,
        stopasgroup="true",
        killasgroup="true",
        redirect_stderr="true",
        stdout_logfile=_literal(str(stack.root / LOGS / f"{program.name}.log")),
        stdout_logfile_maxbytes="10MB",
        stdout_logfile_backups=2,
    )


def _section(name: str, **settings: object) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in settings.items()), ""])


def _literal(text: str) -> str:
    """The text with percent signs doubled: supervisor expands single ones."""
    return text.replace("%", "%%")
