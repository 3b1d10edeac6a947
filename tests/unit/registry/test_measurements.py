"""A measurement answers for the conditions it was made under, and only once it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry import ModelVersion

from pllava.core.params import Params
from pllava.registry.measurements import find, held, keep, key
from pllava.tracking.store import client

CONDITIONS = {"data_sha256": "d" * 64, "template_sha256": "t" * 64, "limit": None, "judge": None}


def metrics(**provenance: Any) -> dict[str, Any]:
    return {"benchmark": "mvbench", "provenance": CONDITIONS | provenance, "models": {}}


@pytest.fixture
def version(in_project: Params, tmp_path: Path) -> ModelVersion:
    """A registered version without a measurement."""
    connection = client()
    connection.create_registered_model("pllava")
    run = connection.create_run(connection.create_experiment("pllava"))
    return connection.create_model_version("pllava", tmp_path.as_uri(), run.info.run_id)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """metrics.json and results.jsonl of one measurement."""
    (tmp_path / "metrics.json").write_text(json.dumps(metrics()))
    (tmp_path / "results.jsonl").write_text('{"id": "1"}\n')
    return tmp_path / "metrics.json", tmp_path / "results.jsonl"


@pytest.mark.parametrize(
    "changed",
    [{"data_sha256": "e" * 64}, {"template_sha256": "e" * 64}, {"limit": 10}, {"judge": {"kind": "offline"}}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_conditions_are_another_measurement(changed: dict[str, Any]) -> None:
    assert key(metrics(**changed)) != key(metrics())


def test_what_changes_no_answer_is_the_same_measurement() -> None:
    assert key(metrics(adapter_sha256="a" * 64)) == key(metrics())


def test_a_measurement_is_found_under_its_conditions_alone(version: ModelVersion, files: tuple[Path, Path], tmp_path: Path) -> None:
    connection = client()
    keep(connection, version, version.run_id, "mvbench", *files)
    found = find(connection, version, "mvbench", metrics(), tmp_path / "downloads")
    assert found.metrics == metrics()
    assert found.results is not None
    assert found.results.read_text() == '{"id": "1"}\n'
    assert find(connection, version, "mvbench", metrics(limit=10), tmp_path / "downloads").results is None


@pytest.mark.parametrize("missing", ["metrics.json", "results.jsonl"])
def test_a_measurement_that_lacks_a_file_is_not_held(version: ModelVersion, files: tuple[Path, Path], missing: str) -> None:
    connection = client()
    for file in files:
        if file.name != missing:
            connection.log_artifact(version.run_id, str(file), f"measured/mvbench/{key(metrics())}")
    assert not held(connection, version, "mvbench", metrics())
