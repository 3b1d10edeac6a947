"""`pllava promote` and `pllava rollback`: the alias `champion` moves; `previous` remembers where it was."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.registry.resolve import locate
from pllava.registry.versions import CHAMPION, KNOWN, PREVIOUS, ROLLED_BACK, all_versions, by_alias, pick
from pllava.tracking.store import MLFLOW_HOME, client, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Champion:
    """Who is champion now, and who would be after a rollback."""

    name: str
    version: int
    previous: int | None

    def __str__(self) -> str:
        return f"champion of {self.name}: version {self.version}" + (f" (previous: {self.previous})" if self.previous else "")


def promote(params: Params, version: int | None = None, force: bool = False, reason: str | None = None) -> Champion:
    """Make a version (None: the candidate) champion. Promoting the champion changes nothing.

    Raises PllavaError unless the gate let this version pass against today's champion; `force` skips that, and the version keeps
    who forced it and why: without a `reason` there is no force.
    """
    if force and not (reason or "").strip():
        raise PllavaError("a forced promotion needs its reason, which is recorded. Run: pllava promote --force --reason TEXT")
    name = params.registry.model_name
    with _alone():
        connection = client()
        _sync_alias(connection, name)
        chosen = pick(connection, name, version)
        current = by_alias(connection, name, CHAMPION)
        if current is not None and current.version == chosen.version:
            return _state(connection, name)
        tags = {"promoted_at": _now(), "promoted_by": _who()}
        refusal = _refusal(chosen.tags, str(current.version) if current else "none")
        if refusal and not force:
            raise PllavaError(f"version {chosen.version} of {name} is not promoted: {refusal}")
        if force:
            tags |= {
                "forced": "true",
                "forced_by": tags["promoted_by"],
                "forced_reason": str(reason),
                "forced_over": refusal or "nothing",
            }
        for key, value in tags.items():
            connection.set_model_version_tag(name, str(chosen.version), key, value)
        # Previous first: should we die between the two, the champion is still the one that was.
        if current is not None:
            connection.set_registered_model_alias(name, PREVIOUS, str(current.version))
        _set_champion(connection, name, str(chosen.version))
        _clear_rollback(connection, name, chosen)
        return _state(connection, name)


def rollback(params: Params) -> Champion:
    """Swap champion and previous; a second rollback swaps them back.

    The version that gives way is marked, so that the next run of the pipeline does not promote it again. Raises PllavaError, with nothing
    changed, when there is no previous one, or when its bytes are not those that were registered.
    """
    name = params.registry.model_name
    with _alone():
        connection = client()
        _sync_alias(connection, name)
        current, before = by_alias(connection, name, CHAMPION), by_alias(connection, name, PREVIOUS)
        if current is None or before is None or current.version == before.version:
            now = f"version {current.version}" if current else "nothing"
            raise PllavaError(f"{name} has no previous champion to go back to; the champion is {now}")
        locate(f"models:/{name}/{before.version}")  # every byte is checked
        connection.set_model_version_tag(name, str(current.version), ROLLED_BACK, _now())
        _set_champion(connection, name, str(before.version))
        connection.set_registered_model_alias(name, PREVIOUS, str(current.version))
        _clear_rollback(connection, name, before)
        return _state(connection, name)


def adopt(params: Params) -> int | None:
    """Take note of a champion that was made elsewhere, by moving the alias in MLflow's pages or by its API; the champion's version.

    The alias `previous` then leads to the champion we knew, so that a rollback goes there, and the version says that it came in this way.
    """
    with _alone():
        return _sync_alias(client(), params.registry.model_name)


def _sync_alias(connection: MlflowClient, name: str) -> int | None:
    champion = by_alias(connection, name, CHAMPION)
    if champion is None:
        return None
    number = str(champion.version)
    known = connection.get_registered_model(name).tags.get(KNOWN)
    if known == number:
        return int(number)
    if known is not None and any(str(version.version) == known for version in all_versions(connection, name)):
        connection.set_registered_model_alias(name, PREVIOUS, known)
        refusal = _refusal(champion.tags, known)
        tags = {"promoted_at": _now(), "promoted_by": "the alias was moved in MLflow", "promoted_over": refusal or "nothing"}
        for key, value in tags.items():
            connection.set_model_version_tag(name, number, key, value)
        _clear_rollback(connection, name, champion)
    connection.set_registered_model_tag(name, KNOWN, number)
    return int(number)


def _set_champion(connection: MlflowClient, name: str, number: str) -> None:
    """Move the alias. What we know is written first: the alias may be looked at, by whoever deploys it, the moment it has moved."""
    connection.set_registered_model_tag(name, KNOWN, number)
    connection.set_registered_model_alias(name, CHAMPION, number)


def _refusal(tags: dict[str, str], champion: str) -> str | None:
    """Why the gate's recorded outcome does not allow a promotion."""
    if "gate" not in tags:
        return "it has not been through the gate. Run: pllava gate"
    if tags["gate"] != "passed":
        return f"the gate says no:\n{tags.get('gate.reasons', '')}"
    if tags.get("gate.against") != champion:
        return f"it passed the gate against champion {tags.get('gate.against')}, but the champion is {champion} now. Run: pllava gate"
    return None


def _clear_rollback(connection: MlflowClient, name: str, version: ModelVersion) -> None:
    """A champion is not one that had to give way."""
    if ROLLED_BACK in version.tags:
        connection.delete_model_version_tag(name, str(version.version), ROLLED_BACK)


def _who() -> str:
    """The user; a container may run as one that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _state(connection: MlflowClient, name: str) -> Champion:
    champion, previous = by_alias(connection, name, CHAMPION), by_alias(connection, name, PREVIOUS)
    if champion is None:
        raise PllavaError(f"{name} has no champion. Run: pllava promote")
    return Champion(name, int(champion.version), int(previous.version) if previous else None)


@contextmanager
def _alone() -> Iterator[None]:
    """One process of this project moves aliases at a time."""
    from filelock import FileLock

    place = project_root() / MLFLOW_HOME
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "aliases.lock"):
        yield
