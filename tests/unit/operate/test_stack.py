"""Which MLflow the services use is settled when they are started; later commands go by that, whatever their environment says."""

import shutil
from pathlib import Path

import pytest

from pllava.services.programs import programs
from pllava.services.stack import recorded, wanted
from pllava.services.supervisor import write_settings

RECIPE = Path(__file__).parents[3] / "recipes/tiny.yaml"


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copy(RECIPE, tmp_path / "params.yaml")
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:5000", "http://localhost:5000/", "sqlite:////a/mlflow.db"])
def test_our_own_server_under_any_name_is_started(root, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert "mlflow" in {program.name for program in programs(wanted(root))}


def test_a_server_elsewhere_stays_in_use_and_its_address_is_written_nowhere(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org")
    stack = wanted(root)
    stack.save()
    assert "secret" not in write_settings(stack).read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    found = recorded(root)
    assert found == stack and "mlflow" not in {program.name for program in programs(found)}
    assert found.mlflow_url == "elsewhere (MLFLOW_TRACKING_URI)"


def test_our_own_server_stays_in_use(root, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    wanted(root).save()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.org")
    assert recorded(root).mlflow_url == "http://127.0.0.1:5000"
