"""Who may open a page: this machine only, unless a name and password are asked for."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pllava.core.errors import PllavaError

AUTH_VARIABLE = "PLLAVA_AUTH"
AUTH_HELP = "NAME:PASSWORD that the page asks for, or @FILE that holds it; the environment's PLLAVA_AUTH does not show in `ps`"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_auth(text: str | None) -> tuple[str, str] | None:
    """(name, password), None when none is asked for. Raises PllavaError when the text is not of this form."""
    if not text:
        return None
    if text.startswith("@"):
        file = Path(text[1:])
        if not file.is_file():
            raise PllavaError(f"--auth {text}: {file} is not there. It must hold one line, NAME:PASSWORD")
        text = file.read_text(encoding="utf-8").strip()
    name, colon, password = text.partition(":")
    if not (colon and name and password):
        raise PllavaError("--auth takes NAME:PASSWORD, both not empty, or @FILE that holds it")
    return name, password


def require_auth_beyond_loopback(host: str, auth: tuple[str, str] | None) -> None:
    """Raises PllavaError when strangers could reach the page and nobody asks them for a password."""
    if auth is None and not is_loopback(host):
        raise PllavaError(
            f"{host} can be reached from other machines, and the page shows files. Add --auth NAME:PASSWORD, "
            f"or set {AUTH_VARIABLE}, or listen on 127.0.0.1"
        )
