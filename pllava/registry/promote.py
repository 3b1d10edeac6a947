"""`pllava promote` and `pllava rollback` move the alias `champion`; the alias `previous` keeps the version that was champion before."""

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
from pllava.registry.resolve import locate, record_champion
from pllava.registry.versions import CHAMPION, KNOWN, PREVIOUS, ROLLED_BACK, all_versions, by_alias, pick
from pllava.tracking.store import MLFLOW_HOME, client, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Champion:
    """The champion's version, and the version that a rollback would make champion."""

    name: str
    version: int
    previous: int | None

    def __str__(self) -> str:
        return f"champion of {self.name}: version {self.version}" + (f" (previous: {self.previous})" if self.previous else "")


def promote(params: Params, version: int | None = None, force: bool = False, reason: str | None = None) -> Champion:
    """Make a version (None: the candidate) champion. Promoting the champion changes nothing.

    Raises PllavaError unless the version passed the gate against the current champion. `force` skips this check and needs a `reason`;
    the version records the user and the reason.
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
        # `previous` is written first: if this process dies before the next call, the old champion stays champion.
        if current is not None:
            connection.set_registered_model_alias(name, PREVIOUS, str(current.version))
        _set_champion(connection, name, str(chosen.version))
        _clear_rollback(connection, name, chosen)
        record_champion(name)
        return _state(connection, name)


def rollback(params: Params) -> Champion:
    """Swap champion and previous; a second rollback swaps them back.

    The replaced version is marked as rolled back, so the gate refuses it and the pipeline does not promote it again.
    Raises PllavaError and changes nothing when there is no previous champion, or when its files differ from the registered ones.
    """
    name = params.registry.model_name
    with _alone():
        connection = client()
        _sync_alias(connection, name)
        current, previous = by_alias(connection, name, CHAMPION), by_alias(connection, name, PREVIOUS)
        if current is None or previous is None or current.version == previous.version:
            now = f"version {current.version}" if current else "nothing"
            raise PllavaError(f"{name} has no previous champion to go back to; the champion is {now}")
        locate(f"models:/{name}/{previous.version}")  # checks the hash of every file
        connection.set_model_version_tag(name, str(current.version), ROLLED_BACK, _now())
        _set_champion(connection, name, str(previous.version))
        connection.set_registered_model_alias(name, PREVIOUS, str(current.version))
        _clear_rollback(connection, name, previous)
        record_champion(name)
        return _state(connection, name)


def adopt(params: Params) -> int | None:
    """Record a champion that someone set in MLflow's pages or through its API; returns the champion's version, None without a champion.

    The alias `previous` is set to the last champion known to `promote` and `rollback`, so that a rollback restores it. The tags of the
    new champion say that the alias was moved in MLflow.
    """
    with _alone():
        number = _sync_alias(client(), params.registry.model_name)
        record_champion(params.registry.model_name)
        return number


def _sync_alias(connection: MlflowClient, name: str) -> int | None:
    """`adopt`, for a caller that holds the lock."""
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
    """Move the alias `champion`. The tag KNOWN is written first, so that a deployer who sees the new alias also sees the new tag."""
    connection.set_registered_model_tag(name, KNOWN, number)
    connection.set_registered_model_alias(name, CHAMPION, number)


def _refusal(tags: dict[str, str], champion: str) -> str | None:
    """Why the recorded outcome of the gate forbids a promotion; None when it allows the promotion."""
    if "gate" not in tags:
        return "it has not been through the gate. Run: pllava gate"
    if tags["gate"] != "passed":
        return f"the gate says no:\n{tags.get('gate.reasons', '')}"
    if tags.get("gate.against") != champion:
        return f"it passed the gate against champion {tags.get('gate.against')}, but the champion is {champion} now. Run: pllava gate"
    return None


def _clear_rollback(connection: MlflowClient, name: str, version: ModelVersion) -> None:
    """Remove the mark of a rollback from a version that is champion again."""
    if ROLLED_BACK in version.tags:
        connection.delete_model_version_tag(name, str(version.version), ROLLED_BACK)


def _who() -> str:
    """The user's name, or the number of a user without a name (as in some containers)."""
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
    """Hold the lock that lets one process of this project at a time move aliases."""
    from filelock import FileLock

    folder = project_root() / MLFLOW_HOME
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "aliases.lock"):
        yield
