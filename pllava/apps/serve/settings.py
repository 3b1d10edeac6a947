"""Limits of `pllava serve`: sizes, times, and access."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pllava.apps.web.auth import is_loopback
from pllava.core.errors import PllavaError
from pllava.video.limits import Limits

KEY_VARIABLE = "PLLAVA_API_KEY"


@dataclass(frozen=True)
class ServeSettings:
    """Raises PllavaError for a host beyond loopback without a key."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_waiting: int = 16  # requests behind the one that is answered; the next gets 429
    max_bytes: int = 64 << 20  # of one video
    max_seconds: float = 3600.0  # length of one video
    max_stored_bytes: int = 1 << 30  # uploaded files together; the oldest go first
    max_new_tokens: int = 1024
    timeout: float = 300.0  # seconds of one request, waiting included
    api_key: str | None = None

    def __post_init__(self) -> None:
        if self.api_key is None and not is_loopback(self.host):
            raise PllavaError(f"--host {self.host} lets other machines ask, and no key is set. Set {KEY_VARIABLE}, or stay on 127.0.0.1")

    @property
    def limits(self) -> Limits:
        return Limits(max_bytes=self.max_bytes, max_seconds=self.max_seconds, max_pixels=4096 * 2304, max_decoded_bytes=1 << 30)

    @property
    def max_body(self) -> int:
        """Bytes of a request: base64 adds a third to the video, its line breaks a twentieth more, and there is text beside the video."""
        return self.max_bytes * 7 // 5 + (1 << 20)

    @property
    def max_bodies(self) -> int:
        """Bytes of all bodies that are read at once: room for two of the largest."""
        return 2 * self.max_body


def key_from_environment() -> str | None:
    return os.environ.get(KEY_VARIABLE) or None
