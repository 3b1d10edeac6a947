"""Nobody becomes champion without the gate's word, unless a person forces it and says why. On a real MLflow store, one of plain files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pllava.core.errors import PllavaError
from pllava.core.params import Params
from pllava.registry.promote import promote, rollback
from pllava.registry.versions import CHAMPION, PREVIOUS, by_alias
from pllava.tracking.store import client

Register = Callable[..., int]


@pytest.fixture
def params(in_project: Params) -> Params:
    return in_project


@pytest.fixture
def register(params: Params, tmp_path: Path) -> Register:
    """Register a version with the tags that the gate would write: register("passed", "1") -> its number."""
    connection, name = client(), params.registry.model_name
    connection.create_registered_model(name)

    def add(outcome: str | None = None, against: str = "none") -> int:
        tags = {} if outcome is None else {"gate": outcome, "gate.against": against, "gate.reasons": "mvbench: worse"}
        return int(connection.create_model_version(name, tmp_path.as_uri(), tags=tags).version)

    return add


def champion(params: Params) -> int | None:
    version = by_alias(client(), params.registry.model_name, CHAMPION)
    return None if version is None else int(version.version)


def tags(params: Params, version: int) -> dict[str, Any]:
    return client().get_model_version(params.registry.model_name, str(version)).tags


def test_a_version_that_passed_the_gate_becomes_champion(params: Params, register: Register) -> None:
    assert promote(params, register("passed")).version == champion(params) == 1


@pytest.mark.parametrize(
    ("outcome", "against", "why"),
    [
        (None, "", "has not been through the gate"),
        ("failed", "1", "the gate says no:\nmvbench: worse"),
        ("passed", "none", "it passed the gate against champion none, but the champion is 1 now"),
    ],
    ids=["no word", "the word no", "a word against another champion"],
)
def test_without_the_gates_word_against_todays_champion_nobody_is_promoted(
    params: Params, register: Register, outcome: str | None, against: str, why: str
) -> None:
    promote(params, register("passed"))
    refused = register(outcome, against)
    with pytest.raises(PllavaError, match=why):
        promote(params, refused)
    assert champion(params) == 1
    assert "promoted_at" not in tags(params, refused)


@pytest.mark.parametrize(("outcome", "over"), [(None, "it has not been through the gate. Run: pllava gate"), ("passed", "nothing")])
def test_a_forced_promotion_records_its_reason_and_what_it_overrode(
    params: Params, register: Register, outcome: str | None, over: str
) -> None:
    assert promote(params, register(outcome), force=True, reason="the old one leaks").version == 1
    recorded = tags(params, 1)
    assert recorded["forced"] == "true"
    assert recorded["forced_by"] == recorded["promoted_by"]
    assert recorded["forced_reason"] == "the old one leaks"
    assert recorded["forced_over"] == over


def test_a_promotion_that_is_not_forced_is_not_recorded_as_forced(params: Params, register: Register) -> None:
    promote(params, register("passed"), reason="never asked for")
    assert not [key for key in tags(params, 1) if key.startswith("forced")]


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_a_forced_promotion_without_a_reason_is_refused(params: Params, register: Register, reason: str | None) -> None:
    register("passed")
    with pytest.raises(PllavaError, match="a forced promotion needs its reason"):
        promote(params, force=True, reason=reason)
    assert champion(params) is None


def test_a_promotion_keeps_the_champion_before_it_as_previous(params: Params, register: Register) -> None:
    promote(params, register("passed"))
    assert str(promote(params, register("passed", "1"))) == "champion of pllava: version 2 (previous: 1)"
    previous = by_alias(client(), params.registry.model_name, PREVIOUS)
    assert previous is not None
    assert int(previous.version) == 1


def test_promoting_the_champion_changes_nothing(params: Params, register: Register) -> None:
    promote(params, register("passed"))
    before = tags(params, 1)
    assert str(promote(params, 1)) == "champion of pllava: version 1"
    assert tags(params, 1) == before


def test_without_a_previous_champion_a_rollback_is_refused(params: Params, register: Register) -> None:
    promote(params, register("passed"))
    with pytest.raises(PllavaError, match="no previous champion to go back to; the champion is version 1"):
        rollback(params)
    assert champion(params) == 1
