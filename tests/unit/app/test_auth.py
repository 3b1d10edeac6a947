"""A page asks for a name and a password where other machines can reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pllava.apps.web.auth import is_loopback, read_auth, require_auth_beyond_loopback
from pllava.core.errors import PllavaError


@pytest.mark.parametrize(("text", "login"), [(None, None), ("", None), ("me:secret", ("me", "secret")), ("me:a:b", ("me", "a:b"))])
def test_a_login_is_a_name_and_a_password(text: str | None, login: tuple[str, str] | None) -> None:
    assert read_auth(text) == login


def test_a_login_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("me:secret\n")
    assert read_auth(f"@{tmp_path / 'auth'}") == ("me", "secret")


@pytest.mark.parametrize("text", ["me", "me:", ":secret", ":"])
@pytest.mark.parametrize("in_file", [False, True])
def test_half_a_login_is_refused(text: str, in_file: bool, tmp_path: Path) -> None:
    (tmp_path / "auth").write_text(text)
    with pytest.raises(PllavaError, match="NAME:PASSWORD, both not empty"):
        read_auth(f"@{tmp_path / 'auth'}" if in_file else text)


def test_a_login_in_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PllavaError, match="is not there"):
        read_auth(f"@{tmp_path / 'auth'}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_a_page_of_this_machine_needs_no_login(host: str) -> None:
    assert is_loopback(host)
    require_auth_beyond_loopback(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.com", "localhost.example.com", ""])
def test_a_page_that_other_machines_reach_needs_a_login(host: str) -> None:
    with pytest.raises(PllavaError, match="Add --auth NAME:PASSWORD"):
        require_auth_beyond_loopback(host, None)
    require_auth_beyond_loopback(host, ("me", "secret"))
