"""Resolves an address of a model with a scheme: `resolve("models:/pllava@champion").folder`.

Each scheme is an entry point of the group `pllava.model_sources`: a function from the address to a `LocalModel`. The registry provides
`models`; other packages can provide other schemes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pllava.core import plugins

GROUP = "pllava.model_sources"
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/")  # two letters at least: C:/models is a folder


@dataclass(frozen=True)
class LocalModel:
    """A model that a source has put on this machine, with its bytes checked."""

    folder: Path
    name: str  # shown to people: "pllava version 3 (champion)"
    version: int | None = None
    lora_alpha: float | None = None  # the alpha this version was evaluated with; None: the trained alpha
    lineage: dict[str, str] = field(default_factory=dict)  # identifies what the model was made from, e.g. "base_sha256"


def scheme_of(address: str | Path | None) -> str | None:
    """The scheme of an address such as `models:/pllava@champion`; None for a folder or a hub id."""
    match = SCHEME.match(str(address))
    return match[1] if match else None


def resolve(address: str) -> LocalModel:
    """The model at an address with a scheme. Raises PllavaError for an unknown scheme, and the errors of the source."""
    return plugins.load(GROUP, scheme_of(address) or "")(address)
