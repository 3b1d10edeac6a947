"""Addresses of models with a scheme: `resolve("models:/pllava@champion").folder`.

An entry point of the group `pllava.model_sources`, named after the scheme, is a function from the address to a `LocalModel`. The registry
provides `models`; a package of one's own can provide another scheme.
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
    """What an address leads to: a folder on this machine whose bytes were checked, and what its source knows about the model."""

    folder: Path
    name: str  # for people: "pllava version 3 (champion)"
    version: int | None = None
    lora_alpha: float | None = None  # the strength this version was measured at; None: as trained
    lineage: dict[str, str] = field(default_factory=dict)  # what an answer can be walked back to


def scheme_of(address: str | Path | None) -> str | None:
    """The scheme of an address such as `models:/pllava@champion`; None for a folder or a hub id."""
    match = SCHEME.match(str(address))
    return match[1] if match else None


def resolve(address: str) -> LocalModel:
    """The model that an address with a scheme leads to. Raises PllavaError for an unknown scheme, and whatever the source refuses."""
    return plugins.load(GROUP, scheme_of(address) or "")(address)
