"""No message holds a password: neither of an address nor of its settings, whoever wrote the message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError, without_passwords
from pllava.tracking.store import client

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:s3cr3t@host:5000/x", "http://user:***@host:5000/x"),
        ("https://s3cr3t@host/x", "https://***@host/x"),
        ("http://:s3cr3t@host", "http://:***@host"),
        ("postgresql+psycopg2://user:s3cr3t@host:5432/db", "postgresql+psycopg2://user:***@host:5432/db"),
        ("postgresql://user:a/s3cr3t@b:s3cr3t@host/db", "postgresql://user:***@host/db"),
        ("POSTGRESQL://user:%20s3cr3t@host/db", "POSTGRESQL://user:***@host/db"),
        ("postgresql://host/db?user=u&password=s3cr3t&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("https://host/x?access_token=s3cr3t;y", "https://host/x?access_token=***;y"),
        ("host=h password='s3cr3t two' dbname=d", "host=h password=*** dbname=d"),
        ("models:/pllava@champion at http://127.0.0.1:5000", "models:/pllava@champion at http://127.0.0.1:5000"),
        ("ssh://git@host/x and me@example.org", "ssh://git@host/x and me@example.org"),
    ],
)
def test_passwords_become_stars(address: str, shown: str) -> None:
    assert without_passwords(f"MLflow at {address} does not answer") == f"MLflow at {shown} does not answer"
    assert str(PllavaError(f"{address}, {address}")) == f"{shown}, {shown}"


def test_a_password_with_spaces_is_known_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://user:a s3cr3t/@ one@host/db")
    assert without_passwords("postgresql://user:a s3cr3t/@ one@host/db is away") == "postgresql://user:***@host/db is away"


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{SECRET}@127.0.0.1:9",
        f"http://{SECRET}@127.0.0.1:9",
        f"http://user:{SECRET}@127.0.0.1:port",
        f"http://user:{SECRET} two@[::1/x",
        f"postgresql://user:{SECRET}@127.0.0.1:9/db",
        f"postgresql://user:{SECRET}@127.0.0.1:port/db",
        f"unknown://user:{SECRET}@127.0.0.1:9/db",
    ],
)
def test_a_store_that_does_not_answer_is_named_without_its_password(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PllavaError, match="does not answer") as refused:
        client()
    assert SECRET not in str(refused.value) + repr(refused.value) + caplog.text
    assert "***" in str(refused.value)


@pytest.mark.parametrize("error", ["RuntimeError", "PllavaError"])
def test_the_traceback_of_a_bug_holds_no_password(error: str) -> None:
    code = f"""
import sys
from pllava import cli
from pllava.core.errors import PllavaError
def fails():
    raise {error}("postgresql://user:" + "s3c" + "r3t@host/db") from OSError("http://user:" + "s3c" + "r3t@host")
cli.app = fails
sys.argv = ["pllava"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PLLAVA_DEBUG": "1"})
    assert done.returncode == 1
    assert "postgresql://user:***@host/db" in done.stderr
    assert SECRET not in done.stderr
