"""A project folder with an empty MLflow store of plain files, which needs no migration: migrating one takes ten seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pllava.core.params import Params, load_params


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The settings of the project folder that the test works in."""
    shutil.copy("recipes/tiny.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    return load_params()
