"""Access to a page: from this machine only, unless the page asks for a name and a password."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pllava.core.errors import PllavaError

AUTH_VARIABLE = "PLLAVA_AUTH"
AUTH_HELP = "NAME:PASSWORD that the page asks for, or @FILE that holds it; the environment's PLLAVA_AUTH does not show in `ps`"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, an address or a name; an IPv6 address may have brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_auth(text: str | None) -> tuple[str, str] | None:
    """(name, password), from NAME:PASSWORD or @FILE; None for an empty text. Raises PllavaError for any other text."""
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
    """Raises PllavaError when other machines can reach `host` and `auth` is None."""
    if auth is None and not is_loopback(host):
        raise PllavaError(
            f"{host} can be reached from other machines, and the page shows files. Add --auth NAME:PASSWORD, "
            f"or set {AUTH_VARIABLE}, or listen on 127.0.0.1"
        )
